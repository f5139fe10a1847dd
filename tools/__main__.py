"""Lists the programs of this project, with a line each.

  python -m tools

Reads the first lines of their sources; imports nothing.
"""

import ast
from collections.abc import Sequence
import difflib
from pathlib import Path
import shutil
import sys
import textwrap

from carracing_data import command_line
from carracing_data import errors

_ROOT = Path(__file__).parents[1]
_LEAST_COLUMNS = 40  # Of a description.
MAINTAIN = 'Maintain this project'
GROUPS = {
  'Make data and agents': (
    'tfds build datasets/carracing_rollouts',
    'tfds build datasets/carracing_latents',
    'trainers.train_vae',
    'trainers.train_mdn_rnn',
    'trainers.train_controller',
    'tools.demo',
    'tools.two_rounds',
    'tools.dream_rounds',
  ),
  'Look at them': (
    'tools.datasets',
    'tools.view_rollouts',
    'tools.browse_rollouts',
    'tools.dream',
    'tools.compare_runs',
    'tools.report',
    'tools.lineage',
  ),
  'Drive': (
    'tools.play',
    'tools.drive',
    'tools.record',
    'tools.select_episodes',
  ),
  'Share': (
    'tools.verify',
    'tools.export',
    'tools.export_page',
  ),
  'Measure': (
    'tools.evaluate',
    'tools.dream_errors',
    'tools.dream_fidelity',
  ),
  MAINTAIN: (
    'tools.benchmark',
    'tools.benchmark.coordinator',
    'tools.figures',
  ),
}


def main(argv: Sequence[str]) -> None:
  names = [name for group in GROUPS.values() for name in group]
  if len(argv) > 1:
    close = difflib.get_close_matches(f'tools.{argv[1]}', names, 1, 0.8)
    hint = f'; did you mean python -m {close[0]}?' if close else ''
    raise errors.UserError(f'unexpected argument {argv[1]!r}{hint}')
  print('Run python -m NAME, or with --help for its flags and an example,')
  print('and tfds build as it stands here, all in the folder of the project.')
  indent = max(map(len, names)) + 4
  # In a pipe each program has exactly one line.
  on_terminal = sys.stdout.isatty()
  width = sys.maxsize
  if on_terminal:
    width = max(shutil.get_terminal_size().columns, indent + _LEAST_COLUMNS)
  for title, group in GROUPS.items():
    print(f'\n{title}')
    for name in group:
      line = f'  {name:{indent - 2}}{summary(name)}'
      print(textwrap.fill(line, width, subsequent_indent=' ' * indent))


def summary(name: str) -> str:
  """Returns the first line of a program's documentation."""
  if name.startswith('tfds build '):
    name = name.rpartition('/')[2]
    path = _ROOT / 'datasets' / name / f'{name}_dataset_builder.py'
  else:
    path = _ROOT.joinpath(*name.split('.'))
    path = path / '__main__.py' if path.is_dir() else path.with_suffix('.py')
  documentation = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
  assert documentation
  return documentation.splitlines()[0]


if __name__ == '__main__':
  command_line.run(main, takes_arguments=True)
