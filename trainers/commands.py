"""The flags that all trainers have, and how a trainer starts."""

from collections.abc import Callable, Sequence
import os
from pathlib import Path
import re
import sys

from absl import flags
from carracing_data import command_line
from carracing_data import errors
from carracing_data import places
import jax
import ml_collections
from ml_collections import config_flags
from trainers import config_files
from trainers import run_documents
from trainers import runtime
from trainers import tracking

# The flags belong to the trainer.
flags.disclaim_key_flags()

_CONFIGS = Path(__file__).parent / 'configs'
_Train = Callable[
  [ml_collections.ConfigDict, Path, str | None, tracking.Options], None
]


def run(train: _Train, default_config: str, divide_cpu: bool = False) -> None:
  """Runs a trainer with the flags that all trainers have.

  Args:
    train: takes the config, the workdir, the data directory and how the run is
      watched.
    default_config: name of a file in `trainers/configs`, the config if
      `--config` is not given.
    divide_cpu: see `runtime.divide_cpu`.
  """
  default_path = os.path.relpath(_CONFIGS / default_config)
  try:
    config_files.check(sys.argv, default_path)
  except errors.UserError as error:
    command_line.exit_with_usage(error)
  config = config_flags.DEFINE_config_file(
    'config',
    default_path,
    'File of the hyperparameters. --config.KEY=VALUE changes one of them.',
  )
  # The library's flag would belong to this module.
  flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS['config'])
  workdir = flags.DEFINE_string(
    'workdir', None, 'Folder of the run.', required=True
  )
  data_dir = command_line.data_dir_flag()
  profile_steps = flags.DEFINE_integer(
    'profile_steps',
    0,
    'Number of steps to profile for TensorBoard.',
    lower_bound=0,
  )
  wandb_project = flags.DEFINE_string(
    'wandb_project',
    None,
    'Project at Weights & Biases that gets the TensorBoard logs.',
  )
  join = _distributed_flags()

  def main(argv: Sequence[str]) -> None:
    del argv
    runtime.prepare()
    batch_size = config.value.get('batch_size')
    if divide_cpu and isinstance(batch_size, int) and batch_size > 0:
      runtime.divide_cpu(batch_size)
    join()
    train(
      config.value,
      places.expand(workdir.value),
      data_dir.value,
      tracking.Options(profile_steps.value, wandb_project.value),
    )

  command_line.run(main)


def _distributed_flags() -> Callable[[], None]:
  """Defines the flags of several hosts; returns what joins these."""
  distributed = flags.DEFINE_bool(
    'distributed',
    False,
    'Whether to train together with other hosts, which run the same command.'
    ' On TPUs and SLURM they find each other; elsewhere set --coordinator,'
    ' --num_processes and --process_id.',
  )
  coordinator = flags.DEFINE_string(
    'coordinator', None, 'HOST:PORT of the first process.'
  )
  num_processes = flags.DEFINE_integer(
    'num_processes', None, 'Total number of processes.', lower_bound=1
  )
  process_id = flags.DEFINE_integer(
    'process_id', None, 'Index of this process, from 0.', lower_bound=0
  )

  def join() -> None:
    if distributed.value:
      _join(coordinator.value, num_processes.value, process_id.value)

  return join


def _join(
  coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
  """Joins the other hosts.

  Raises:
    run_documents.RunError: the flags do not say how.
  """
  given = coordinator, num_processes, process_id
  if any(x is not None for x in given):
    if any(x is None for x in given):
      raise run_documents.RunError(
        '--coordinator, --num_processes and --process_id belong together'
      )
    if not re.fullmatch(r'[\w.\-\[\]:]+:\d{1,5}', str(coordinator)):
      raise run_documents.RunError(
        f'--coordinator={coordinator} is not HOST:PORT'
      )
    assert num_processes is not None and process_id is not None
    if process_id >= num_processes:
      raise run_documents.RunError(
        f'--process_id={process_id} must be below --num_processes='
        f'{num_processes}'
      )
  try:
    jax.distributed.initialize(*given)
  except (RuntimeError, ValueError) as error:
    reason = str(error).splitlines()[0]
    raise run_documents.RunError(
      f'cannot join the other processes: {reason}; on machines that JAX does'
      ' not know, set --coordinator, --num_processes and --process_id'
    ) from error
