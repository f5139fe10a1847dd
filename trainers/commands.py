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
import jax
import ml_collections
from ml_collections import config_flags
from models import weights
from trainers import run_folder
from trainers import runtime

# Messages of clu beside its line with steps/s and ETA.
_SAID_BETTER = r'\[\d+\] (Got images|steps_per_sec|uptime)'
_EXPECTED = (errors.DatasetError, weights.WeightsError, run_folder.RunError)


def train(
  train_and_export: Callable[
    [ml_collections.ConfigDict, Path, str | None, int], None
  ],
  default_config: str,
  divide_cpu: bool = False,
) -> None:
  """Runs a trainer with the flags that all trainers have.

  Args:
    train_and_export: takes the config, the workdir, the data directory and how
      many steps to profile.
    default_config: file of the config if `--config` is not given.
    divide_cpu: see `runtime.divide_cpu`.
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
  profile_steps = flags.DEFINE_integer(
    'profile_steps', 0, 'How many steps to profile, for TensorBoard.'
  )
  wandb_project = flags.DEFINE_string(
    'wandb_project', None, 'Sends the TensorBoard logs to Weights & Biases.'
  )
  distributed = flags.DEFINE_bool(
    'distributed',
    False,
    'Train with other hosts, which run the same command. On TPUs and SLURM they'
    ' find each other, elsewhere the three flags below say how.',
  )
  coordinator = flags.DEFINE_string(
    'coordinator', None, 'HOST:PORT of the first process.'
  )
  num_processes = flags.DEFINE_integer('num_processes', None, 'Of all hosts.')
  process_id = flags.DEFINE_integer('process_id', None, 'From 0 on.')

  def main(argv: Sequence[str]) -> None:
    del argv
    if divide_cpu:
      runtime.divide_cpu(config.value.batch_size)
    if distributed.value:
      jax.distributed.initialize(
        coordinator.value, num_processes.value, process_id.value
      )
    if wandb_project.value and jax.process_index() == 0:
      _sync_to_wandb(wandb_project.value, workdir.value, config.value)
    train_and_export(
      config.value,
      Path(workdir.value),
      data_dir.value,
      profile_steps.value,
    )

  run(main)


def _sync_to_wandb(
  project: str, workdir: str, config: ml_collections.ConfigDict
) -> None:
  try:
    import wandb  # pyright: ignore[reportMissingImports]  An optional dependency.
  except ImportError:
    raise run_folder.RunError(
      'Weights & Biases is not installed; install it with: pip install -c'
      " constraints.txt -e '.[wandb]'"
    ) from None
  Path(workdir).mkdir(parents=True, exist_ok=True)
  wandb.init(
    project=project,
    dir=workdir,
    name=Path(workdir).name,
    config=config.to_dict(),
    sync_tensorboard=True,
  )


def run(
  main: Callable[[Sequence[str]], None], takes_arguments: bool = False
) -> None:
  """Runs a binary; errors that users can mend are shown without a traceback.

  Args:
    main: takes the command's name and its arguments that are no flags.
    takes_arguments: whether there may be any.
  """

  def guarded(argv: Sequence[str]) -> None:
    if len(argv) > 1 and not takes_arguments:
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
