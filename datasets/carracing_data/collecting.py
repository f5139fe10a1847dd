"""Links finished shards into a dataset, one at a time, and sums them up."""

from collections.abc import Callable, Sequence
import os
from pathlib import Path
import shutil
from typing import Any, NamedTuple

from carracing_data import digests
from carracing_data import files
from carracing_data import rlds_steps
from carracing_data import shards


class Collected(NamedTuple):
  """A split whose shards are linked into a dataset.

  Attributes:
    metadata: statistics and digest, see `metadata.SplitMetadata`.
    files_sha256: digest of each shard, by file name.
  """

  metadata: dict[str, Any]
  files_sha256: dict[str, str]


def collect(
  jobs: Sequence[shards.Job], path_of: Callable[[int], Path]
) -> Collected:
  """Links the shards of a split into a dataset.

  Only one shard's record is in memory at a time: together they may have
  gigabytes.

  Args:
    jobs: jobs that wrote the shards, in order.
    path_of: index of a shard → its path in the dataset.

  Raises:
    errors.DatasetError: a shard is not written, or was damaged since.
  """
  content = digests.SplitDigest()
  totals = rlds_steps.Totals()
  files, lengths, num_bytes = {}, [], 0
  for index, job in enumerate(jobs):
    written = job.checked_result()
    path = path_of(index)
    # Linked, not moved: an interruption here must not lose a staged shard.
    _link_or_copy(job.path, path)
    files[path.name] = written.file_sha256
    lengths.append(written.num_examples)
    num_bytes += written.num_bytes
    content.update(written.record_digests)
    for episode in written.episodes:
      totals.add(episode)
  metadata = {
    'content_sha256': content.hexdigest(),
    'num_bytes': num_bytes,
    'shard_lengths': lengths,
    **totals.statistics(),
  }
  return Collected(metadata, files)


def _link_or_copy(source: Path, target: Path) -> None:
  try:
    os.link(source, target)
  except OSError:  # This file system has no hard links.
    shutil.copyfile(source, target)
    files.sync(target)
