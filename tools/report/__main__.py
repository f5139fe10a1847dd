"""Writes a report of a line of work: an HTML page of one file.

  python -m tools.report demo
  python -m tools.report models/pretrained --output=report.html

Takes the folder of a demo, of `tools.two_rounds` or `tools.dream_rounds`, of a
run, or of an agent; of several C the newest one with a score. The page shows
its lineage, the data, what V, M and C learned, see and dream, the scores, and
the settings of the runs. Sources are found as `tools.lineage` finds them; what
is not found is said in the page.
"""

from collections.abc import Sequence

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import errors
from carracing_data import files
from etils import epy

with epy.lazy_imports():
  from carracing_data import runtime
  from tools.report import reporting

_DATA_DIR = flags.DEFINE_string(
  'data_dir',
  None,
  'Data directory of the datasets; defaults to the folder data beside the runs,'
  ' else to $TFDS_DATA_DIR or ~/tensorflow_datasets.',
)
_SEARCH = flags.DEFINE_list(
  'search',
  ['runs', 'demo'],
  'Folders below which runs and exported weights may lie, besides that of the'
  ' argument.',
)
_OUTPUT = flags.DEFINE_string(
  'output', None, 'HTML file to write; by default report.html in the folder.'
)


def main(argv: Sequence[str]) -> None:
  if len(argv) != 2:
    raise errors.UserError('name one folder of a demo, a run or an agent')
  named = [('search', x) for x in _SEARCH.value or [] if _SEARCH.present]
  if _DATA_DIR.value is not None:
    named.append(('data_dir', _DATA_DIR.value))
  for flag, folder in named:
    if not files.expand(folder).is_dir():
      raise errors.UserError(f'--{flag}={folder} is no folder')
  logging.info('Reporting on %s.', argv[1])
  runtime.prepare()
  output = reporting.make(
    files.expand(argv[1]),
    _DATA_DIR.value,
    [files.expand(folder) for folder in _SEARCH.value],
    None if _OUTPUT.value is None else files.expand(_OUTPUT.value),
  )
  logging.info('Saved %s', output)


if __name__ == '__main__':
  command_line.run(main, takes_arguments=True)
