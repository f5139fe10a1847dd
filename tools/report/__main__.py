"""Writes a report of a line of work: an HTML page of one file.

  python -m tools.report demo
  python -m tools.report models/pretrained --output=report.html

Takes the folder of a pipeline (`tools.demo`, `tools.two_rounds` or
`tools.dream_rounds`), of a run, or of an agent; of several C the newest one
with a score. The page shows its lineage, the data, what V, M and C learned, see
and dream, how dreams rank drivers, the scores, and the settings of the runs.
Sources are found as `tools.lineage` finds them; what is not found is said in
the page.
"""

from collections.abc import Sequence

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import errors
from carracing_data import files
from etils import epy
from tools.lineage import search_flags

with epy.lazy_imports():
  from carracing_data import runtime
  from tools.report import page

_FLAGS = search_flags.Flags()
_OUTPUT = flags.DEFINE_string(
  'output', None, 'HTML file to write; by default report.html in the folder.'
)


def main(argv: Sequence[str]) -> None:
  if len(argv) != 2:
    raise errors.UserError('name one folder of a pipeline, a run or an agent')
  logging.info('Reporting on %s.', argv[1])
  data_dir, search = _FLAGS.values()
  runtime.prepare()
  output = page.make(
    files.expand(argv[1]),
    data_dir,
    search,
    None if _OUTPUT.value is None else files.expand(_OUTPUT.value),
  )
  logging.info('Saved %s', output)


if __name__ == '__main__':
  command_line.run(main, takes_arguments=True)
