"""Configures a process for speed before it computes anything.

For programs of this project: the settings are those of the whole process.
Libraries only call the checks.
"""

import contextlib
import ctypes
import functools
import math
import os
from pathlib import Path
import re

from absl import logging
from carracing_data import errors
from carracing_data import processes
import jax

# Constants from <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_NEVER = 2**31 - 1
# JAX's event after a program is lowered, before it is compiled or loaded.
_LOWERED = '/jax/core/compile/jaxpr_to_mlir_module_duration'
# Settings that would change draws, types or rounding without a word.
_SETTINGS = {
  'jax_enable_x64': False,
  'jax_default_prng_impl': 'threefry2x32',
  'jax_random_seed_offset': 0,
  'jax_threefry_partitionable': True,
  'jax_numpy_dtype_promotion': 'standard',
}
_FAST_MATH = re.compile(
  r'enable_fast_(?:min_max|math)\b(?!=\W?(?:0|f|false)\b)', re.IGNORECASE
)


@functools.cache  # Once in a process.
def prepare() -> None:
  """Keeps compiled programs across runs, and freed memory across steps."""
  check_settings()
  _keep_compiled_programs()
  _keep_freed_memory()
  _say_when_compiling()


def check_settings() -> None:
  """Checks that JAX draws and computes with the types that results had.

  Raises:
    errors.UserError: the environment or the program has set it up otherwise.
  """
  for name, usual in _SETTINGS.items():
    if getattr(jax.config, name, usual) != usual:
      raise errors.UserError(
        f'{name} is not {usual!r}, which changes results; unset'
        f' {name.upper()}, or call jax.config.update({name!r}, {usual!r})'
      )
  if _FAST_MATH.search(os.environ.get('XLA_FLAGS', '')):
    raise errors.UserError(
      'XLA_FLAGS turns fast math on, which changes results; take it out'
    )


def use_cpu() -> None:
  """Keeps this process off accelerators; call it before JAX computes.

  For processes that mostly simulate: their batches are small, and many of them
  would share an accelerator.
  """
  jax.config.update('jax_platforms', 'cpu')


def divide_cpu(num_devices: int) -> None:
  """Divides the CPU into devices, unless the user has done so.

  Devices compute at the same time, whereas the programs of one device follow
  each other. They share the threads of all cores.
  """
  if (
    'xla_force_host_platform_device_count'
    not in os.environ.get('XLA_FLAGS', '')
    and 'JAX_NUM_CPU_DEVICES' not in os.environ
  ):
    jax.config.update('jax_num_cpu_devices', num_devices)


def devices_for_batches(batch_size: int) -> int:
  """Returns how many CPU devices share batches; their size is divisible by it.

  The steps of a recurrent network are small. XLA runs their matrix products on
  all cores but not the operations in between, so sharding the batch across
  cores is a fourth faster than sharing every step.
  """
  return math.gcd(batch_size, processes.num_cores())


def check_memory(num_bytes: int, what: str) -> None:
  """Raises UserError if the machine or its container has less memory."""
  available = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  with contextlib.suppress(OSError, ValueError):  # `max` is no limit.
    limit = Path('/sys/fs/cgroup/memory.max').read_text(encoding='utf-8')
    available = min(available, int(limit))
  if num_bytes > available:
    raise errors.UserError(
      f'there is too little memory: {what} take {num_bytes / 1e9:.1f} GB, and'
      f' this machine has {available / 1e9:.1f} GB; choose a smaller number'
    )


def _keep_compiled_programs() -> None:
  """Sets up JAX's persistent compilation cache.

  Its location is `$JAX_COMPILATION_CACHE_DIR`, by default in the user's cache
  folder; in it, a folder for each number of cores. XLA divides a program among
  the cores it is compiled on, but JAX's key of a program does not name them: on
  two cores, a program of one core would be found, and stay on one.
  """
  cache = jax.config.values['jax_compilation_cache_dir']
  if not cache:
    try:
      caches = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    except RuntimeError:  # A container's user may have no home.
      return
    cache = os.path.join(caches, 'carracing/jax')
  jax.config.update(
    'jax_compilation_cache_dir',
    os.path.join(cache, f'{processes.num_cores()}_cores'),
  )
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


def _say_when_compiling() -> None:
  """Logs the first compilation, which may take a minute without output."""

  @functools.cache
  def say() -> None:
    cache = jax.config.values['jax_compilation_cache_dir']
    if cache and jax.config.values['jax_enable_compilation_cache']:
      logging.info('Compiling; programs in %s are reused.', cache)
    else:
      logging.info('Compiling.')

  def listen(event: str, duration_secs: float, **_: str | int) -> None:
    del duration_secs
    if event == _LOWERED:
      say()

  jax.monitoring.register_event_duration_secs_listener(listen)


def _keep_freed_memory() -> None:
  """Makes glibc keep freed memory for the next step.

  By default glibc returns large blocks to the system at once, and every
  training step on a CPU causes thousands of page faults. So do the heaps of
  further arenas, in which XLA's threads allocate: an empty one is unmapped,
  whatever the threshold.
  """
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is not None:  # Other C libraries lack it.
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _NEVER)
    mallopt(_M_ARENA_MAX, 1)
