"""Shows what weights or a dataset were made from, down to seeds and drivers.

  python -m tools.lineage two_rounds
  python -m tools.lineage carracing_latents/default

Takes a folder as `tools.report` does, or a dataset. Of each artefact it prints
the digest of its content, where it is found here, and the command that makes it
again. Sources are recognised by their content; published weights, which are
rounded, stand in for those that they name.
"""

from collections.abc import Sequence

from absl import logging
from carracing_data import command_line
from carracing_data import errors
from etils import epy
from tools.lineage import search_flags

with epy.lazy_imports():
  from tools.lineage import artefacts
  from tools.lineage import find

_FLAGS = search_flags.Flags()


def main(argv: Sequence[str]) -> None:
  if len(argv) != 2:
    raise errors.UserError(
      'name one folder of a pipeline, a run, an agent or weights, or one'
      ' dataset'
    )
  logging.info('Tracing %s.', argv[1])
  artefact = find.artefact(argv[1], *_FLAGS.values())
  print('\n'.join(artefacts.lines(artefact)))


if __name__ == '__main__':
  command_line.run(main, takes_arguments=True)
