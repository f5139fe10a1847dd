"""What the binaries of this project have in common on the command line."""

from collections.abc import Callable, Sequence
import logging as python_logging
from pathlib import Path
import sys

from absl import app
from absl import flags
from absl import logging
from carracing_data import errors
from models import weights
from trainers import loop

_EXPECTED = (errors.DatasetError, weights.WeightsError, loop.RunError)


def run(main: Callable[[Sequence[str]], None]) -> None:
  """Runs a binary; errors that users can mend are shown without a traceback."""

  def guarded(argv: Sequence[str]) -> None:
    if len(argv) > 1:
      sys.exit(f'Error: unexpected argument {argv[1]!r}')
    _log_what_users_want()
    try:
      main(argv)
    except _EXPECTED as error:
      sys.exit(f'Error: {error}')

  app.run(guarded, flags_parser=_parse)


def _log_what_users_want() -> None:
  """Shows our own and clu's messages and the warnings of everybody else."""

  def wanted(record: python_logging.LogRecord) -> bool:
    ours = {'clu', 'tools', 'trainers'} & set(Path(record.pathname).parts)
    return bool(ours) or record.levelno > python_logging.INFO

  logging.set_verbosity(logging.INFO)
  logging.use_absl_handler()
  handler = logging.get_absl_handler()
  handler.setFormatter(
      python_logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S')
  )
  handler.addFilter(wanted)


def _parse(argv: Sequence[str]) -> list[str]:
  """Parses flags; a config key that does not exist is an error of the user."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    sys.exit(f'Error: {error}\nSee {argv[0]} --help')
  except AttributeError as error:  # From a locked ConfigDict.
    key_error = error.args[0]
    sys.exit(f'Error: unknown config key {key_error.args[0]}')
