"""Runs a notebook and stores its outputs in it.

  python -m tools.run_notebook docs/tour.ipynb

Runs all cells in a new kernel, in the folder of the notebook. Stores pictures
and results, but neither times nor what goes to stderr: the same notebook gives
the same file on the same kind of machine.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging
from carracing_data import command_line
from carracing_data import errors
from carracing_data import files
from etils import epy

with epy.lazy_imports():
  import nbclient  # With the extra `dev`.
  from nbclient import exceptions
  import nbformat

_CELL_SECONDS = 600


def run(path: Path) -> Any:
  """Runs a notebook.

  Args:
    path: the notebook, which is not changed.

  Returns:
    The notebook with its outputs, an `nbformat.NotebookNode`.

  Raises:
    errors.UserError: it is no notebook, or a cell fails.
  """
  try:
    notebook = nbformat.read(path, as_version=4)
  except OSError as error:
    raise errors.UserError(f'cannot read {path}: {error.strerror}') from None
  except (
    AttributeError,
    RecursionError,
    ValueError,
    nbformat.ValidationError,
  ) as error:
    raise errors.UserError(f'{path} is no notebook: {error}') from None
  client = nbclient.NotebookClient(
    notebook,
    timeout=_CELL_SECONDS,
    kernel_name='python3',  # That of this Python.
    record_timing=False,
    extra_arguments=['--log-level=ERROR'],  # It warns of TCP on this machine.
    resources={'metadata': {'path': str(path.parent)}},
  )
  try:
    client.execute()
  except exceptions.CellExecutionError as error:
    raise errors.UserError(
      f'a cell of {path} fails: {error.ename}: {error.evalue!r}. It begins'
      f' with: {_first_line(notebook)}'
    ) from error
  except (
    exceptions.CellTimeoutError,
    exceptions.DeadKernelError,
    RuntimeError,
    UnicodeError,
  ) as error:
    raise errors.UserError(f'{path} does not run: {error}') from error
  for cell in notebook.cells:
    if cell.cell_type == 'code':
      cell.outputs = [x for x in cell.outputs if x.get('name') != 'stderr']
  # The version of Python would change with the machine.
  notebook.metadata.language_info = {'name': 'python'}
  return notebook


def _first_line(notebook: Any) -> str:
  """Returns the first line of the cell that ran last."""
  ran = [x for x in notebook.cells if x.get('execution_count') is not None]
  return ran[-1].source.partition('\n')[0] if ran else 'nothing'


def main(argv: Sequence[str]) -> None:
  if len(argv) != 2:
    raise errors.UserError('name one notebook, e.g. docs/tour.ipynb')
  logging.info('Running %s.', argv[1])
  for package in 'nbclient', 'ipykernel':
    command_line.check_package(package, 'dev', 'a notebook')
  path = files.claim_file(files.expand(argv[1]))
  notebook = run(path)
  files.replace(path, lambda file: nbformat.write(notebook, file))
  logging.info('Saved %s', path)


if __name__ == '__main__':
  command_line.run(main, takes_arguments=True)
