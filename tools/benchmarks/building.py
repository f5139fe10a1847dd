"""Dataset builds as the work of a contest."""

from collections.abc import Callable
import contextlib
import tempfile
from typing import Any

from absl import logging
from carracing_data import sharded_builder
import tensorflow_datasets as tfds
from tools.benchmarks import contest


def builds(
  make_builder: Callable[[str], sharded_builder.ShardedBuilder],
) -> contest.Work:
  """Prepares builds of a dataset, including verification.

  Args:
    make_builder: function that returns a builder for a data directory.

  Returns:
    Work that silently builds into a new folder and returns the number of steps.
  """
  tfds.disable_progress_bar()
  logging.set_verbosity(logging.ERROR)
  scratch = tempfile.TemporaryDirectory()

  def work() -> float:
    with (
      tempfile.TemporaryDirectory(dir=scratch.name) as folder,
      contextlib.redirect_stdout(None),
    ):
      builder = make_builder(folder)
      builder.download_and_prepare()
      metadata: Any = builder.info.metadata
      return sum(split['num_steps'] for split in metadata['splits'].values())

  return work
