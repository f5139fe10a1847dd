"""Cores, and independent jobs in worker processes of this machine.

It imports nothing heavy.
"""

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import contextlib
import functools
import multiprocessing
import multiprocessing.context
import os
import signal
import sys
import threading
import types
from typing import Any

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import errors

Job = Callable[[], None]


def num_cores() -> int:
  """Returns the number of cores that this process may use (see `taskset`)."""
  if not hasattr(os, 'sched_getaffinity'):  # On macOS.
    return os.cpu_count() or 1
  return len(os.sched_getaffinity(0))


@functools.cache
def _first_user(library: str) -> int:
  """Returns the process that first used a library; its forks inherit it."""
  del library
  return os.getpid()


def refuse_fork(library: str) -> None:
  """Checks that this process is no fork of one that has used a library.

  Its threads do not survive the fork: the process would hang, or crash.

  Raises:
    errors.UserError: this process is such a fork.
  """
  if _first_user(library) != os.getpid():
    raise errors.UserError(
      f'{library} does not survive the fork that made this process; start it'
      " with the method 'spawn': multiprocessing.get_context('spawn'),"
      " multiprocessing_context='spawn' of PyTorch's DataLoader, or"
      " vector_kwargs={'context': 'spawn'} of gymnasium.make_vec"
    )


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


def run_locally(
  jobs: Sequence[Job],
  num_workers: int,
  on_end: Callable[[], None] = lambda: None,
) -> None:
  """Runs jobs in several processes.

  Workers exit with this process, even if it is killed.

  Args:
    jobs: jobs to run; picklable if `num_workers` > 1.
    num_workers: number of processes; 1 means this one.
    on_end: called in this process whenever a job has ended.

  Raises:
    errors.DatasetError: a worker was killed.
  """
  if num_workers == 1 or not jobs:
    for job in jobs:
      job()
      on_end()
    return
  context = _SpawnContext()
  executor = concurrent.futures.ProcessPoolExecutor(
    min(num_workers, len(jobs)),
    mp_context=context,
    initializer=_start_worker,
  )
  try:
    with bare_main(), _deaf_to_interrupts():
      futures = [executor.submit(job) for job in jobs]
    for future in concurrent.futures.as_completed(futures):
      future.result()
      on_end()
  except concurrent.futures.process.BrokenProcessPool:
    raise errors.DatasetError(
      'a worker process was killed (out of memory?); run the same command'
      ' again to continue'
    ) from None
  finally:
    # On failure the remaining workers are useless; after success they are idle.
    for worker in context.started:
      worker.terminate()
    executor.shutdown(cancel_futures=True)


class _SpawnContext(multiprocessing.context.SpawnContext):
  """A spawn context that keeps track of its processes.

  Attributes:
    started: processes that this context has started.
  """

  def __init__(self):
    super().__init__()
    self.started: list[Any] = []

  def Process(self, *args, **kwargs):  # pyright: ignore
    process = super().Process(*args, **kwargs)
    self.started.append(process)
    return process


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
  """Lets workers inherit that Ctrl-C is ignored, until they handle it.

  While they import their libraries, it would print the stacks of all of them.
  """
  if threading.current_thread() is not threading.main_thread():
    yield  # Only the main thread may change signals.
    return
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    yield
  finally:
    signal.signal(signal.SIGINT, before)


def _start_worker() -> None:
  """Makes this worker log its warnings alone, and end with its parent.

  What it does, its parent has said, and each worker would say it again.
  """
  command_line.open_streams()
  flags.FLAGS.mark_as_parsed()  # Otherwise absl complains of that.
  command_line.set_up_logging()
  logging.set_verbosity(logging.WARNING)
  _end_with_parent()


def _end_with_parent() -> None:
  """Makes this worker exit silently on Ctrl-C and when its parent exits."""
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  parent = multiprocessing.parent_process()

  def wait() -> None:
    if parent is not None:
      parent.join()
      os._exit(1)

  threading.Thread(target=wait, daemon=True).start()
