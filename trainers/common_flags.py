"""Common flags and start-up of the trainers, and their config files."""

import argparse
from collections.abc import Callable, Mapping, Sequence
import contextlib
import difflib
import os
from pathlib import Path
import runpy
import socket
import sys
import traceback
from typing import Any

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import errors
from carracing_data import extras
from carracing_data import files
from etils import epy
import ml_collections
from ml_collections import config_flags
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
    loaded, sys.argv = _load(sys.argv, default_file)
  except (errors.UserError, argparse.ArgumentError) as error:
    command_line.exit_with_usage(error)
  config = define_config(
    loaded,
    f'File with the hyperparameters; by default {default_file}.'
    ' --config.KEY=VALUE overrides one of them.'
    + ''.join(
      f'\nThe keys of {name}, with their defaults:\n\n'
      + base.described(schema())
      for name, schema in configs.items()
    ),
  )
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
    # The loop handles signals by itself.
    command_line.handle_signals(command_line.end_at_once)
    if wandb_project.value:
      extras.check('wandb')
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


def define_config(
  config: ml_collections.ConfigDict, description: str
) -> flags.FlagHolder[ml_collections.ConfigDict]:
  """Defines `--config`, whose `--config.KEY=VALUE` changes a config."""
  try:  # It reads the command line.
    flag = config_flags.DEFINE_config_dict('config', config, description)
  except flags.Error as error:
    command_line.exit_with_usage(error)
  # ml_collections registers its flag for this module, not for the binary.
  flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS['config'])
  return flag


def check_keys(
  argv: Sequence[str], config: ml_collections.ConfigDict, hint: str
) -> None:
  """Checks the keys that a command line changes, `--config.KEY=VALUE`.

  Raises:
    errors.UserError: there is no such key; `hint` says where they are listed.
  """
  for argument in argv:
    name = argument.lstrip('-').partition('=')[0]
    if argument.startswith('-') and name.startswith(('config.', 'noconfig.')):
      if (key := name.partition('.')[2]) not in config:
        close = difflib.get_close_matches(key, config, n=1)
        hint = f'did you mean {close[0]!r}?' if close else hint
        raise errors.UserError(f'unknown config key {key!r}; {hint}')


def _load(
  argv: Sequence[str], default_file: str
) -> tuple[ml_collections.ConfigDict, list[str]]:
  """Returns the config that `--config=FILE` names, and the other arguments.

  Raises:
    argparse.ArgumentError: `--config` has no value.
    errors.UserError: the file fails, or lacks a key of the command line.
  """
  # One dash is as good as two for absl.
  argv = [f'-{x}' if x.startswith('-config') else x for x in argv]
  parser = argparse.ArgumentParser(
    add_help=False, allow_abbrev=False, exit_on_error=False
  )
  parser.add_argument('--config', default=default_file)
  known, others = parser.parse_known_args(argv)
  config = _run(known.config)
  check_keys(others, config, f'see {known.config}')
  return config, others


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
    if coordinator.value is not None:
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
