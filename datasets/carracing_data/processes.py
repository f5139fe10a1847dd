"""Cores, and the start of worker processes; imports nothing heavy."""

from collections.abc import Iterator
import contextlib
import os
import sys
import types


def num_cores() -> int:
  """Returns the number of cores that this process may use (see `taskset`)."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


@contextlib.contextmanager
def bare_main() -> Iterator[None]:
  """Keeps spawned workers from importing `__main__`.

  `__main__` is the `tfds` command, which imports TensorFlow and Beam: 5 s per
  worker.
  """
  main = sys.modules['__main__']
  sys.modules['__main__'] = types.ModuleType('__main__')
  try:
    yield
  finally:
    sys.modules['__main__'] = main
