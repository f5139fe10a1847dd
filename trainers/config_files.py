"""Runs the config file of a command line, which is user code."""

import argparse
from collections.abc import Sequence
import difflib
from pathlib import Path
import runpy
import traceback
from typing import Any, NoReturn

from carracing_data import errors
import ml_collections


class _Parser(argparse.ArgumentParser):
  """Raises errors instead of printing them."""

  def error(self, message: str) -> NoReturn:
    raise errors.UserError(message)


def load(
  argv: Sequence[str], default_file: str
) -> tuple[ml_collections.ConfigDict, list[str]]:
  """Returns the config that `--config=FILE` names, and the other arguments.

  Args:
    argv: the command line.
    default_file: config file if the command line has no `--config`.

  Raises:
    errors.UserError: the file fails, or lacks a key of the command line.
  """
  # One dash is as good as two for absl.
  argv = [f'-{x}' if x.startswith('-config') else x for x in argv]
  parser = _Parser(add_help=False, allow_abbrev=False)
  parser.add_argument('--config', action='append', default=[])
  known, others = parser.parse_known_args(argv)
  if len(known.config) > 1:
    raise errors.UserError(f'--config is given {len(known.config)} times')
  [file] = known.config or [default_file]
  config = _run(file)
  check_keys(others, config, f'see {file}')
  return config, others


def check_keys(
  argv: Sequence[str], config: ml_collections.ConfigDict, hint: str
) -> None:
  """Checks the keys that a command line changes, `--config.KEY=VALUE`.

  Args:
    argv: the command line.
    config: config with all keys.
    hint: where they are listed, for the error message.

  Raises:
    errors.UserError: there is no such key.
  """
  for argument in argv:
    name = argument.lstrip('-').partition('=')[0]
    if argument.startswith('-') and name.startswith(('config.', 'noconfig.')):
      if (key := name.partition('.')[2]) not in config:
        close = difflib.get_close_matches(key, config, n=1)
        hint = f'did you mean {close[0]!r}?' if close else hint
        raise errors.UserError(f'unknown config key {key!r}; {hint}')


def _run(file: str) -> ml_collections.ConfigDict:
  if not Path(file).is_file():
    raise errors.UserError(f'--config={file}: there is no such file')
  try:
    get_config: Any = runpy.run_path(file).get('get_config')
    config = get_config() if callable(get_config) else None
  except Exception as error:  # User code may raise anything.
    lines = [
      frame.lineno
      for frame in traceback.extract_tb(error.__traceback__)
      if frame.filename == file
    ]
    if isinstance(error, SyntaxError):
      lines = [error.lineno]
    line = f' in line {lines[-1]}' if lines else ''
    raise errors.UserError(
      f'the config file {file} fails{line}: {type(error).__name__}: {error}'
    ) from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise errors.UserError(
      f'the config file {file} must define get_config(), which returns an'
      ' ml_collections.ConfigDict; see trainers/configs/vae.py'
    )
  return config
