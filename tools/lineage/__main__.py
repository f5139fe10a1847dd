"""Shows what weights or a dataset were made from, down to seeds and drivers.

  python -m tools.lineage runs/controller/agent
  python -m tools.lineage carracing_latents/default --json

Of each artefact it prints the digest of its content, where it is found here,
and the command that makes it again. Sources are recognised by their content;
published weights, which are rounded, stand in for those that they name.
"""

from collections.abc import Sequence
import os

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import errors
from carracing_data import files
from etils import epy

with epy.lazy_imports():
  from tools.lineage import ancestry

_DATA_DIR = command_line.data_dir_flag()
_SEARCH = flags.DEFINE_list(
  'search',
  ['runs', 'demo'],
  'Folders below which exported weights may lie, besides that of the argument.',
)
_JSON = flags.DEFINE_bool('json', False, 'Prints JSON, for programs.')


def main(argv: Sequence[str]) -> None:
  if len(argv) != 2:
    raise errors.UserError(
      'name one folder of weights, agent, run or dataset, or one dataset'
    )
  logging.info('Tracing %s.', argv[1])
  near = files.expand(argv[1])
  search = [near, near.parent, near.parent.parent]
  search += [files.expand(folder) for folder in _SEARCH.value]
  family = ancestry.Family(
    _DATA_DIR.value, [folder for folder in search if os.path.isdir(folder)]
  )
  tree = family.of(argv[1])
  if _JSON.value:
    print(tree.model_dump_json(indent=2))
  else:
    print('\n'.join(ancestry.lines(tree)))


if __name__ == '__main__':
  command_line.run(main, takes_arguments=True)
