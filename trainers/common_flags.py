"""Common flags and start-up of the trainers."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import os
from pathlib import Path
import signal
import socket
import sys

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import errors
from carracing_data import files
from etils import epy
import ml_collections
from ml_collections import config_flags
from trainers import config_files
from trainers.configs import base

with epy.lazy_imports():
  from carracing_data import runtime
  import jax
  from trainers import training_log

# `--help` lists the flags under the trainer instead of this module.
flags.disclaim_key_flags()

_CONFIGS = Path(__file__).parent / 'configs'


def run(
  train: Callable[..., None],
  model: str,
  configs: Mapping[str, type[base.RunConfig]],
  define_inputs: Callable[[], Sequence[flags.FlagHolder]],
  describe_inputs: Callable[..., str],
  cpu_devices: Callable[[ml_collections.ConfigDict], int] | None = None,
  distributed: bool = True,
) -> None:
  """Runs a trainer with the common flags.

  Args:
    train: called with the config, the workdir, the values of the input flags
      and the logging options.
    model: what is trained, for people.
    configs: classes of the hyperparameters, by their file in
      `trainers/configs`; the first file is the default of `--config`.
    define_inputs: function that defines the input flags and returns them.
    describe_inputs: called with the config and the values of the input flags;
      says on what is trained, without JAX, so that it is said at once.
    cpu_devices: function that returns the number of devices into which a CPU
      is divided, given a config that has not been checked; None: as JAX is
      configured.
    distributed: whether it can train on several hosts.
  """
  default_file = os.path.relpath(_CONFIGS / next(iter(configs)))
  try:
    loaded, sys.argv = config_files.load(sys.argv, default_file)
  except errors.UserError as error:
    command_line.exit_with_usage(error)
  config = config_flags.DEFINE_config_dict(
    'config',
    loaded,
    f'File with the hyperparameters; by default {default_file}.'
    ' --config.KEY=VALUE overrides one of them.'
    + ''.join(
      f'\nThe keys of {name}, with their defaults:\n\n'
      + base.described(schema())
      for name, schema in configs.items()
    ),
  )
  # ml_collections registers its flag for this module, not for the trainer.
  flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS['config'])
  workdir = flags.DEFINE_string(
    'workdir',
    None,
    'Folder of the run; required. An interrupted run in it is continued.',
    required=True,
  )
  inputs = define_inputs()
  profile_steps = flags.DEFINE_integer(
    'profile_steps',
    0,
    'Number of steps to profile for TensorBoard.',
    lower_bound=0,
  )
  wandb_project = flags.DEFINE_string(
    'wandb_project',
    None,
    'Weights & Biases project that receives the TensorBoard logs; by default'
    ' none.',
  )
  join = _distributed_flags() if distributed else None

  def main(argv: Sequence[str]) -> None:
    del argv
    # A KeyboardInterrupt would be lost if it were raised in a callback of JAX.
    # The loop handles the signal by itself.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    values = [flag.value for flag in inputs]
    with contextlib.suppress(errors.UserError):  # `train` raises it again.
      on = describe_inputs(config.value, *values)
      logging.info('Training %s on %s in %s.', model, on, workdir.value)
    runtime.prepare()
    if cpu_devices is not None:
      runtime.divide_cpu(cpu_devices(config.value))
    if join is not None:
      join()
    train(
      config.value,
      files.expand(workdir.value),
      *values,
      training_log.Options(profile_steps.value, wandb_project.value),
    )

  command_line.run(main)


def _distributed_flags() -> Callable[[], None]:
  """Defines the multi-host flags; returns a function that joins the hosts."""
  distributed = flags.DEFINE_bool(
    'distributed',
    False,
    'Whether to train on several hosts, each of which runs the same command.'
    ' On TPUs and SLURM the hosts find each other; elsewhere set'
    ' --coordinator, --num_processes and --process_id.',
  )
  coordinator = flags.DEFINE_string(
    'coordinator',
    None,
    'Address of the first process, as HOST:PORT; detected by default.',
  )
  num_processes = flags.DEFINE_integer(
    'num_processes',
    None,
    'Total number of processes; detected by default.',
    lower_bound=1,
  )
  process_id = flags.DEFINE_integer(
    'process_id',
    None,
    'Index of this process, starting at 0; detected by default.',
    lower_bound=0,
  )

  def join() -> None:
    given = coordinator.value, num_processes.value, process_id.value
    if not distributed.value:
      if any(x is not None for x in given):
        raise errors.UserError(
          '--coordinator, --num_processes and --process_id need --distributed'
        )
      return
    if any(x is not None for x in given):
      if None in given:
        raise errors.UserError(
          '--coordinator, --num_processes and --process_id must be set together'
        )
      if process_id.value >= num_processes.value:
        raise errors.UserError(
          f'--process_id={process_id.value} must be below --num_processes='
          f'{num_processes.value}'
        )
      host, _, port = coordinator.value.rpartition(':')
      try:
        # JAX would wait for minutes and then abort the process.
        socket.getaddrinfo(host.strip('[]'), int(port))
      except (OSError, OverflowError, UnicodeError, ValueError) as error:
        raise errors.UserError(
          f'--coordinator={coordinator.value} is not HOST:PORT ({error})'
        ) from None
    try:
      jax.distributed.initialize(*given)
    except (RuntimeError, ValueError) as error:
      reason = str(error).splitlines()[0]
      raise errors.UserError(
        f'cannot join the other processes: {reason}; on clusters that JAX does'
        ' not detect, set --coordinator, --num_processes and --process_id'
      ) from error

  return join
