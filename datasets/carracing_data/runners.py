"""Runs independent jobs: on the cores of this machine, or with Apache Beam."""

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import contextlib
import io
import multiprocessing
import multiprocessing.context
import os
import re
import signal
import threading
from typing import Any

from absl import logging
from carracing_data import command_line
from carracing_data import errors
from carracing_data import processes
import tensorflow_datasets as tfds

Job = Callable[[], None]


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
    initargs=(logging.get_verbosity(),),
  )
  try:
    with processes.bare_main(), _deaf_to_interrupts():
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


def run_with_beam(
  jobs: Sequence[Job], config: tfds.download.DownloadConfig
) -> None:
  """Runs jobs with Apache Beam.

  Args:
    jobs: picklable jobs; all workers must see the file system of this process.
    config: config with `beam_runner` or `beam_options`.

  Raises:
    errors.UserError: Beam, its runner or a job failed.
  """
  import apache_beam as beam  # Slow to import and rarely needed.

  try:
    # A single leaf, because the Dask runner computes only the last one.
    with beam.Pipeline(
      runner=config.beam_runner, options=config.beam_options
    ) as pipeline:
      _ = (
        pipeline | beam.Create(list(jobs)) | beam.Reshuffle() | beam.Map(_call)
      )
  except errors.UserError:
    raise
  except Exception as error:  # What a runner raises depends on the runner.
    # The process of a worker sends an error of ours as a stack in a text.
    if ours := re.search(
      rf'{re.escape(errors.__name__)}\.\w+: ([^\n\\]+?)( \[while|$|\\n)',
      str(error),
      re.MULTILINE,
    ):
      raise errors.UserError(ours[1]) from error
    reason = str(error).strip().splitlines() or ['no reason given']
    raise errors.UserError(
      f'Beam failed with {type(error).__name__}: {reason[0]}; check'
      ' --beam_pipeline_options, and run the same command again to continue'
    ) from error


def beam_config(text: str) -> tfds.download.DownloadConfig:
  """Parses `--beam_pipeline_options` as `tfds build` does.

  Args:
    text: comma-separated options `NAME=VALUE` or `NAME`, with `runner` if it is
      not the default one.

  Returns:
    A config for `run_with_beam`.

  Raises:
    errors.UserError: Beam rejects an option, its value or the runner.
  """
  # Slow to import and rarely needed.
  from apache_beam.options import pipeline_options
  from apache_beam.runners import runner

  problem = io.StringIO()
  given = text.split(',')
  try:
    if not all(re.match('[a-z]', option) for option in given):
      raise ValueError('the format is NAME=VALUE,NAME=VALUE,...')
    with contextlib.redirect_stderr(problem):
      options = pipeline_options.PipelineOptions([f'--{x}' for x in given])
      known = pipeline_options.PipelineOptions([]).get_all_options()
      values = options.get_all_options(retain_unknown_options=True)
    if unknown := sorted({*values} - {*known}):
      raise ValueError(f'Beam has no option {unknown[0]}')
    runner.create_runner(values['runner'] or 'DirectRunner')
  # What Beam raises depends on the option; argparse exits.
  except (Exception, SystemExit) as error:
    message = (problem.getvalue() or str(error)).strip().split('error: ')[-1]
    raise errors.UserError(
      f'--beam_pipeline_options={text}: {message}'
    ) from None
  return tfds.download.DownloadConfig(beam_options=options)


def _call(job: Job) -> None:
  job()


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


def _start_worker(verbosity: int) -> None:
  """Makes this worker log as its parent does, and end with it."""
  if verbosity >= logging.INFO:
    command_line.set_up_logging()
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
