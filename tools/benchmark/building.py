"""Dataset builds as the work of a contest."""

from collections.abc import Callable
import contextlib
import io
import tempfile
from typing import Any

from absl import logging
from carracing_data import sharded_builder
from tools.benchmark import contest


def builds(
  make_builder: Callable[[str], sharded_builder.ShardedBuilder],
) -> contest.Work:
  """Prepares builds of a dataset, including verification.

  Args:
    make_builder: function that returns a builder for a data directory.

  Returns:
    Work that silently builds into a new folder and returns the number of steps.
  """
  logging.set_verbosity(logging.ERROR)
  scratch = tempfile.TemporaryDirectory()

  def work() -> float:
    with (
      tempfile.TemporaryDirectory(dir=scratch.name) as folder,
      contextlib.redirect_stdout(io.StringIO()),
      contextlib.redirect_stderr(io.StringIO()),
    ):
      builder = make_builder(folder)
      builder.download_and_prepare()
      metadata: Any = builder.info.metadata
      return sum(split['num_steps'] for split in metadata['splits'].values())

  return work
