"""What the process is told before it computes anything."""

import ctypes
import math
import os
from pathlib import Path

from carracing_data import runners
import jax

# <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = 2**31 - 1


def prepare() -> None:
  """Keeps compiled programs between runs and memory between steps."""
  _keep_compiled_programs()
  _keep_freed_memory()


def divide_cpu(batch_size: int) -> None:
  """Makes JAX see as many CPU devices as there are cores to share a batch.

  A recurrent network's steps are small. XLA spreads their products over all
  cores but not what lies between, so cores that each take a part of the batch
  are a fourth faster than cores that share every step.

  Args:
    batch_size: must be divisible by the number of devices.
  """
  if 'xla_force_host_platform_device_count' not in os.environ.get(
    'XLA_FLAGS', ''
  ):
    devices = math.gcd(batch_size, runners.num_cores())
    jax.config.update('jax_num_cpu_devices', devices)


def _keep_compiled_programs() -> None:
  """Sets up JAX's persistent compilation cache.

  It lies in `$JAX_COMPILATION_CACHE_DIR`, else in the user's cache folder.
  """
  if jax.config.jax_compilation_cache_dir is None:
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    jax.config.update(
      'jax_compilation_cache_dir', os.fspath(cache / 'carracing' / 'jax')
    )
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


def _keep_freed_memory() -> None:
  """Tells glibc to keep what is freed, for the next step to use.

  By default it gives large blocks back to the system at once, and every
  training step on a CPU waits for thousands of page faults.
  """
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is not None:  # Another C library has its own ways.
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _NEVER)
