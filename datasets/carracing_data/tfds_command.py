"""Adapts the `tfds` command: one-line errors, flag checks, quiet logs, Ctrl-C.

The command has no hooks for this, but it imports the builder's module before it
reads `--config`. So `sharded_builder` calls `adapt` on import, which does
nothing in any other program.
"""

import json
import logging as python_logging
from pathlib import Path
import sys
from types import TracebackType

from absl import logging
from carracing_data import command_line
from carracing_data import errors

_JAX = 'jax._src.xla_bridge'
_MODULE = ('scripts', 'cli', 'main.py')  # Run by `python -m`.
_INTERRUPTED = 'Interrupted; run the same command again to continue.'


def adapt() -> None:
  """Adapts the `tfds` command if this process runs it.

  Raises:
    errors.DatasetError: `--config` or `--config_idx` is invalid.
  """
  if not is_running():
    return
  _show_in_a_line()
  command_line.stop_in_callbacks(_INTERRUPTED)
  command_line.format_logs(sys.stdout)  # Where the command sends them.
  for logger in logging.get_absl_logger(), python_logging.getLogger(_JAX):
    logger.addFilter(command_line.is_wanted)
  _check_config()


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
    if isinstance(error, errors.UserError):
      print('Error:', *str(error).splitlines(), file=sys.stderr)
    elif isinstance(error, KeyboardInterrupt):
      print(_INTERRUPTED, file=sys.stderr)
    else:
      previous(kind, error, traceback)

  sys.excepthook = hook


def _check_config() -> None:
  """Rejects flags that the command would ignore or fail on with a traceback."""
  arguments = sys.argv[1:]
  for index, argument in enumerate(arguments):
    flag, equals, value = argument.partition('=')
    if flag == '--config_idx' and value not in ('', '0'):
      raise errors.DatasetError(
        f'--config_idx={value} does not exist; the only one is 0, the default'
      )
    if flag != '--config':
      continue
    if not equals:
      value = ''.join(arguments[index + 1 : index + 2])
    if not value.strip() or value.startswith('-'):
      raise errors.DatasetError(
        '--config is empty; omit it for the default, or give a name or JSON'
        ' (if it came from a file, check the name of the file)'
      )
    json_text = value.strip().lstrip('\ufeff')
    if json_text.startswith('{'):
      if value != json_text and not value.startswith('{'):
        raise errors.DatasetError(
          '--config must begin with {, without a blank or any other'
          ' character before it'
        )
      try:
        content = json.loads(value)
      except (RecursionError, ValueError) as error:
        raise errors.DatasetError(
          f'--config is not valid JSON: {error}'
        ) from None
      if 'name' not in content:
        raise errors.DatasetError(
          '--config needs a "name", e.g. {"name": "mine", ...}'
        )
