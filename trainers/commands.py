"""What the binaries of this project have in common on the command line."""

from collections.abc import Callable, Sequence
import logging as python_logging
import os
from pathlib import Path
import re
import sys
from typing import NoReturn

from absl import app
from absl import flags
from absl import logging
import carracing_data
from carracing_data import errors
from carracing_data import places
import clu
import jax
import ml_collections
from ml_collections import config_flags
from models import weights
import orbax.checkpoint as orbax
import trainers
from trainers import config_files
from trainers import run_folder
from trainers import runtime

# Messages of clu beside its line with steps/s and ETA.
_SAID_BETTER = r'\[\d+\] (Got images|steps_per_sec|uptime)'
_EXPECTED = (errors.UserError, weights.WeightsError)
_OURS = [
  Path(file).parent
  for package in (carracing_data, trainers, sys.modules['__main__'])
  if (file := getattr(package, '__file__', None))
]
_CLU, _ORBAX = (Path(package.__path__[0]) for package in (clu, orbax))
_CONFIGS = Path(__file__).parent / 'configs'


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
    default_config: name of a file in `trainers/configs`, the config if
      `--config` is not given.
    divide_cpu: see `runtime.divide_cpu`.
  """
  default_path = os.path.relpath(_CONFIGS / default_config)
  try:
    config_files.check(sys.argv, default_path)
  except errors.UserError as error:
    _exit_with_usage(error)
  config = config_flags.DEFINE_config_file(
    'config',
    default_path,
    'File of the hyperparameters. --config.KEY=VALUE changes one of them.',
  )
  own = [
    flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True),
    flags.DEFINE_string(
      'data_dir', None, 'Where datasets lie; by default as TFDS has it.'
    ),
    flags.DEFINE_integer(
      'profile_steps',
      0,
      'Number of steps to profile for TensorBoard.',
      lower_bound=0,
    ),
    flags.DEFINE_string(
      'wandb_project', None, 'Sends the TensorBoard logs to Weights & Biases.'
    ),
    flags.DEFINE_bool(
      'distributed',
      False,
      'Train with other hosts, which run the same command. On TPUs and SLURM'
      ' they find each other, elsewhere the three flags below say how.',
    ),
    flags.DEFINE_string('coordinator', None, 'HOST:PORT of the first process.'),
    flags.DEFINE_integer(
      'num_processes', None, 'Total number of processes.', lower_bound=1
    ),
    flags.DEFINE_integer(
      'process_id', None, 'Index of this process, from 0.', lower_bound=0
    ),
  ]
  workdir, data_dir, profile_steps, wandb_project, distributed, *hosts = own
  for name in ['config', *(flag.name for flag in own)]:
    # Without this, --help would list them under this module.
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])

  def main(argv: Sequence[str]) -> None:
    del argv
    batch_size = config.value.get('batch_size')
    if divide_cpu and isinstance(batch_size, int) and batch_size > 0:
      runtime.divide_cpu(batch_size)
    if distributed.value:
      _join(*(flag.value for flag in hosts))
    if wandb_project.value and jax.process_index() == 0:
      _sync_to_wandb(wandb_project.value, workdir.value, config.value)
    train_and_export(
      config.value,
      places.expand(workdir.value),
      data_dir.value,
      profile_steps.value,
    )

  run(main)


def _join(
  coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
  """Joins the other hosts.

  Raises:
    run_folder.RunError: the flags do not say how.
  """
  given = coordinator, num_processes, process_id
  if any(x is not None for x in given):
    if any(x is None for x in given):
      raise run_folder.RunError(
        '--coordinator, --num_processes and --process_id belong together'
      )
    if not re.fullmatch(r'[\w.\-\[\]:]+:\d{1,5}', str(coordinator)):
      raise run_folder.RunError(f'--coordinator={coordinator} is not HOST:PORT')
    assert num_processes is not None and process_id is not None
    if process_id >= num_processes:
      raise run_folder.RunError(
        f'--process_id={process_id} must be below --num_processes='
        f'{num_processes}'
      )
  try:
    jax.distributed.initialize(*given)
  except (RuntimeError, ValueError) as error:
    reason = str(error).splitlines()[0]
    raise run_folder.RunError(
      f'cannot join the other processes: {reason}; on machines that JAX does'
      ' not know, --coordinator, --num_processes and --process_id say how'
    ) from error


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
  main: Callable[[Sequence[str]], None],
  takes_arguments: bool = False,
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
      sys.exit(f'Error: {" ".join(str(error).splitlines())}')
    except KeyboardInterrupt:
      sys.exit(130)

  def parse(argv: Sequence[str]) -> list[str]:
    try:
      return flags.FLAGS(argv)
    except flags.Error as error:
      _exit_with_usage(error)

  app.run(guarded, flags_parser=parse)


def _exit_with_usage(error: Exception) -> NoReturn:
  spec = sys.modules['__main__'].__spec__
  command = sys.argv[0] if spec is None else f'python -m {spec.name}'
  message = str(error).replace('\n', ' ')
  sys.exit(f'Error: {message}\nSee {command} --help')


def _log_what_users_want() -> None:
  """Shows our own and clu's messages and the warnings of everybody else."""

  def wanted(record: python_logging.LogRecord) -> bool:
    path = Path(record.pathname)
    ours = any(path.is_relative_to(root) for root in _OURS)
    if path.is_relative_to(_ORBAX) and record.exc_info:
      return False  # It is raised as well.
    said_better = re.match(_SAID_BETTER, record.getMessage())
    return ((ours or path.is_relative_to(_CLU)) and not said_better) or (
      record.levelno > python_logging.INFO
    )

  logging.set_verbosity(logging.INFO)
  logging.use_absl_handler()
  handler = logging.get_absl_handler()
  handler.setFormatter(
    python_logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S')
  )
  handler.addFilter(wanted)
