"""What the binaries of this project have in common on the command line."""

from collections.abc import Callable, Sequence
import logging as python_logging
from pathlib import Path
import re
import sys

from absl import app
from absl import flags
from absl import logging
from carracing_data import errors
import ml_collections
from ml_collections import config_flags
from models import weights
from trainers import loop
from trainers import runtime

# Messages of clu beside its line with steps/s and ETA.
_SAID_BETTER = r'\[\d+\] (Got images|steps_per_sec|uptime)'
_EXPECTED = (errors.DatasetError, weights.WeightsError, loop.RunError)


def train(
  train_and_export: Callable[
    [ml_collections.ConfigDict, Path, str | None], None
  ],
  default_config: str,
) -> None:
  """Runs a trainer with the flags that all trainers have.

  Args:
    train_and_export: takes the config, the workdir and the data directory.
    default_config: file of the config if `--config` is not given.
  """
  config = config_flags.DEFINE_config_file(
    'config', default_config, 'File of the hyperparameters.'
  )
  workdir = flags.DEFINE_string(
    'workdir', None, 'Folder of the run.', required=True
  )
  data_dir = flags.DEFINE_string(
    'data_dir', None, 'Where datasets lie; by default as TFDS has it.'
  )

  def main(argv: Sequence[str]) -> None:
    del argv
    train_and_export(config.value, Path(workdir.value), data_dir.value)

  run(main)


def run(main: Callable[[Sequence[str]], None]) -> None:
  """Runs a binary; errors that users can mend are shown without a traceback."""

  def guarded(argv: Sequence[str]) -> None:
    if len(argv) > 1:
      sys.exit(f'Error: unexpected argument {argv[1]!r}')
    _log_what_users_want()
    runtime.prepare()
    try:
      main(argv)
    except _EXPECTED as error:
      sys.exit(f'Error: {error}')

  app.run(guarded, flags_parser=_parse)


def _log_what_users_want() -> None:
  """Shows our own and clu's messages and the warnings of everybody else."""

  def wanted(record: python_logging.LogRecord) -> bool:
    ours = {'clu', 'tools', 'trainers'} & set(Path(record.pathname).parts)
    said_better = re.match(_SAID_BETTER, record.getMessage())
    return (bool(ours) and not said_better) or (
      record.levelno > python_logging.INFO
    )

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
