"""Adapts the `tfds` command: one-line errors, quiet logs, Ctrl-C.

The command has no hooks for this, but it imports the builder's module before it
reads `--config`. So `sharded_builder` calls `adapt` on import, which does
nothing in any other program.
"""

import json
import logging as python_logging
from pathlib import Path
import sys
from types import TracebackType
from typing import Any

from absl import logging
from carracing_data import command_line
from carracing_data import errors

_JAX = 'jax._src.xla_bridge'
_BUILD = 'tensorflow_datasets.scripts.cli.build'
_MODULE = ('scripts', 'cli', 'main.py')  # Run by `python -m`.
# Empty, they would be ignored, or taken for the folder of the command.
_EMPTY = {
  '--config': (
    'give a name or JSON (if it came from a file, check the name of the file)'
  ),
  '--data_dir': 'name a folder',
}
_INTERRUPTED = f'Interrupted; {command_line.CONTINUE}.'


def adapt() -> None:
  """Adapts the `tfds` command if this process runs it.

  Raises:
    errors.DatasetError: `--config` or `--data_dir` is empty.
  """
  if not is_running():
    return
  _show_in_a_line()
  command_line.open_streams()
  command_line.say_in_any_encoding()
  python_logging.raiseExceptions = False  # A full disk is told once.
  command_line.stop_in_callbacks(_INTERRUPTED)
  command_line.format_logs(sys.stdout)  # Where the command sends them.
  for logger in logging.get_absl_logger(), python_logging.getLogger(_JAX):
    logger.addFilter(command_line.is_wanted)
  build: Any = sys.modules.get(_BUILD)
  if build is not None:  # It would delete what a build is to replace.
    make = build._make_builder
    build._make_builder = lambda *x, **y: make(*x, **{**y, 'overwrite': False})
  for flag, remedy in _EMPTY.items():
    if f'{flag}=' in sys.argv or (flag, '') in zip(sys.argv, sys.argv[1:]):
      raise errors.DatasetError(
        f'{flag} is empty; omit it for the default, or {remedy}'
      )


def is_running() -> bool:
  """Returns whether this process runs the `tfds` command."""
  program = Path(sys.argv[0])
  return program.name == 'tfds' or program.parts[-3:] == _MODULE


def _show_in_a_line() -> None:
  previous = sys.excepthook

  def hook(
    kind: type[BaseException],
    error: BaseException,
    traceback: TracebackType | None,
  ) -> None:
    if isinstance(error, KeyboardInterrupt):
      print(_INTERRUPTED, file=sys.stderr)
    elif isinstance(error, json.JSONDecodeError | RecursionError):
      print(f'Error: --config is not valid JSON: {error}', file=sys.stderr)
    elif line := command_line.line_of(error):
      print(line, file=sys.stderr)
    else:
      previous(kind, error, traceback)

  sys.excepthook = hook
