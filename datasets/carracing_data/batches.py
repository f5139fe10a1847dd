"""Shuffled batches of pieces: what the loaders of the datasets have in common.

A record holds many training examples: frames of a segment, windows of an
episode. Reading a record for each example would be slow, keeping all of them in
memory impossible. So a *group* of records, drawn at random, is read and cut
into its examples, these are shuffled among themselves, and batches are taken
from one group after the other.
"""

from collections.abc import Callable, Sequence
from typing import Any

from carracing_data import errors
import grain
import numpy as np

# Cuts records into examples: a tree of arrays [N, ...]; draws from the rng.
Cut = Callable[[Sequence[Any], np.random.Generator], Any]


def shuffled(
  source: grain.sources.RandomAccessDataSource,
  cut: Cut,
  *,
  batch_size: int,
  group_size: int,
  seed: int,
  num_epochs: int | None,
  shard_index: int,
  shard_count: int,
  num_threads: int,
) -> grain.IterDataset:
  """Returns batches in which each example comes exactly once an epoch.

  Shuffling is local: in each epoch the records come in a new order, and the
  examples of `group_size` records in a row are shuffled among themselves, so
  that many batches in a row come from one group.

  Batches run on over the end of an epoch; only the very last one may be
  smaller than `batch_size`. The order depends on the seed and the epoch, never
  on `num_threads`. Iterators have `get_state` and `set_state`, and Grain's
  checkpointing saves them.

  Args:
    source: the records.
    cut: turns the records of a group into examples.
    batch_size: examples in a batch.
    group_size: records in a group; the larger, the better the shuffling and
      the more memory is taken.
    seed: of the order and of what `cut` draws, other ones on every host.
    num_epochs: passes over the data; endless if None.
    shard_index: which part of the records to read, one for each host.
    shard_count: into how many parts the records are divided.
    num_threads: how many threads read; 0 reads in the caller's.

  Raises:
    errors.DatasetError: there are fewer records than hosts.
  """
  if len(source) < shard_count:
    raise errors.DatasetError(
      f'{len(source)} records cannot be divided among {shard_count} hosts'
    )
  read = _ReadGroup(source, cut)
  dataset = grain.MapDataset.range(shard_index, len(source), shard_count)
  # Every host draws its own: else all would have the same offsets and noise.
  sequence = np.random.SeedSequence([seed, shard_index])
  dataset = dataset.seed(int(sequence.generate_state(1)[0]))
  dataset = dataset.shuffle().batch(group_size).repeat(num_epochs)
  dataset = dataset.random_map(read).to_iter_dataset(
    grain.ReadOptions(
      num_threads=num_threads, prefetch_buffer_size=2 * num_threads
    )
  )
  return grain.experimental.RebatchIterDataset(dataset, batch_size)


class _ReadGroup(grain.transforms.RandomMap):
  """Reads the records of a group and cuts and shuffles them."""

  def __init__(self, source: grain.sources.RandomAccessDataSource, cut: Cut):
    self._source = source
    self._cut = cut

  def random_map(self, element: np.ndarray, rng: np.random.Generator) -> Any:
    return self._cut([self._source[int(i)] for i in element], rng)
