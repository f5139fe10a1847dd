"""Checks config files, which are user code, and reports errors in one line."""

from collections.abc import Sequence
import difflib
from pathlib import Path
import runpy
import traceback
from typing import Any

from carracing_data import errors
import ml_collections


def check(argv: Sequence[str], default_file: str) -> None:
  """Checks the config file and the config keys of a command line.

  Without this check, ml_collections shows its own stack trace for any mistake
  in the file.

  Args:
    argv: the command line.
    default_file: config file if the command line has no `--config`.

  Raises:
    errors.UserError: the file is unusable or lacks one of the keys.
  """
  files, keys = [], []
  for index, argument in enumerate(argv):
    flag, equals, value = argument.lstrip('-').partition('=')
    if not argument.startswith('-'):
      continue
    if flag == 'config':
      files.append(value if equals else ''.join(argv[index + 1 : index + 2]))
    elif flag.startswith(('config.', 'noconfig.')):
      keys.append(flag.partition('.')[2])
  if len(files) > 1:
    raise errors.UserError(f'--config is given {len(files)} times')
  [file] = files or [default_file]
  config = _load(file)
  for key in keys:
    if key not in config:
      close = difflib.get_close_matches(key, config, n=1)
      hint = f'did you mean {close[0]!r}?' if close else f'see {file}'
      raise errors.UserError(f'unknown config key {key!r}; {hint}')


def _load(file: str) -> ml_collections.ConfigDict:
  """Runs a config file and returns its config."""
  if not Path(file).is_file():
    raise errors.UserError(f'--config={file}: there is no such file')
  try:
    namespace = runpy.run_path(file)
    get_config: Any = namespace.get('get_config')
    config = get_config() if callable(get_config) else None
  except Exception as error:  # User code may raise anything.
    line = _line(file, error)
    raise errors.UserError(
      f'the config file {file} fails{line}: {type(error).__name__}: {error}'
    ) from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise errors.UserError(
      f'the config file {file} must define get_config(), which returns an'
      ' ml_collections.ConfigDict; see trainers/configs/vae.py'
    )
  return config


def _line(file: str, error: Exception) -> str:
  """Returns ` in line N` for the line that failed; empty if there is none."""
  if isinstance(error, SyntaxError):
    return f' in line {error.lineno}'
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.filename == file
  ]
  return f' in line {lines[-1]}' if lines else ''
