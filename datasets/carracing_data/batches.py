"""Shuffled batches of examples cut from records, shared by all loaders.

A record holds many training examples: the frames of a segment or the windows of
an episode. Reading a record for each example would be slow, and the records do
not all fit into memory. So a random *group* of records is read and cut into
examples, these are shuffled together, and batches are taken from one group
after another.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from carracing_data import errors
import grain
import numpy as np

# (records, generator) → N shuffled examples, a pytree of arrays [N, ...].
Cut = Callable[[Sequence[Any], np.random.Generator], Any]


_Arrays = TypeVar('_Arrays', bound=tuple[np.ndarray, ...])
_MOST = 1_000_000  # Larger numbers are typos, and would be tried for ever.


def check_integers(low: int, high: int = _MOST, **values: Any) -> None:
  """Raises ValueError unless values are integers from `low` to `high`."""
  for name, value in values.items():
    is_integer = isinstance(value, int | np.integer)
    if isinstance(value, bool) or not (is_integer and low <= value <= high):
      raise ValueError(
        f'{name} is {value!r}, not an integer from {low} to {high}'
      )


def windows(
  episodes: Iterable[_Arrays], window_steps: int, rng: np.random.Generator
) -> _Arrays:
  """Cuts episodes into windows of T transitions and shuffles these.

  An episode is cut every `window_steps` transitions from a random offset, so
  its first and last windows may be shorter. One that fits into a window is not
  cut.

  Args:
    episodes: of each a named tuple of arrays [N, ...], with a row for each of
      its N transitions; all but the last array may have another row at the end.
    window_steps: T.
    rng: generator of offsets and order.

  Returns:
    A named tuple of arrays [number of windows, T, ...], or [..., T + 1, ...],
    zero-padded.
  """
  pieces: list[_Arrays] = []
  extra: list[int] = []
  for episode in episodes:
    steps = len(episode[-1])
    extra = [len(x) - steps for x in episode]
    first = int(rng.integers(window_steps)) + 1
    cuts = range(first, steps, window_steps) if steps > window_steps else ()
    for start, stop in zip([0, *cuts], [*cuts, steps]):
      pieces.append(
        type(episode)(*(x[start : stop + n] for x, n in zip(episode, extra)))
      )
  padded = type(pieces[0])(
    *(
      np.zeros((len(pieces), window_steps + n, *x.shape[1:]), x.dtype)
      for x, n in zip(pieces[0], extra)
    )
  )
  for index, piece in zip(rng.permutation(len(pieces)), pieces):
    for into, values in zip(padded, piece):
      into[index, : len(values)] = values
  return padded


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
  """Returns shuffled batches with each example exactly once per epoch.

  Shuffling is local: each epoch reorders the records, and the examples of
  `group_size` consecutive records are shuffled together, so many consecutive
  batches come from the same group.

  Batches may span two epochs; only the very last one may be smaller than
  `batch_size`. The order depends on the seed and the epoch, not on
  `num_threads`. Iterators support `get_state`, `set_state` and Grain's
  checkpointing.

  Args:
    source: records to read.
    cut: function that cuts the records of a group into shuffled examples.
    batch_size: examples per batch.
    group_size: records per group; larger groups shuffle better and take more
      memory.
    seed: seed of the order and of the draws of `cut`, which differ by host.
    num_epochs: number of passes over the data; endless if None.
    shard_index: index of this host.
    shard_count: number of hosts, which divide the records among them.
    num_threads: number of reading threads; 0 reads in the calling thread.

  Raises:
    errors.DatasetError: there are fewer records than hosts.
    ValueError: a number is out of its range.
  """
  check_integers(1, batch_size=batch_size, shard_count=shard_count)
  check_integers(0, shard_index=shard_index, num_threads=num_threads)
  check_integers(0, 2**63, seed=seed)
  if num_epochs is not None:
    check_integers(1, 2**31, num_epochs=num_epochs)
  if shard_index >= shard_count:
    raise ValueError(f'shard_index is {shard_index}, not below {shard_count}')
  if len(source) < shard_count:
    raise errors.DatasetError(
      f'{len(source)} records cannot be divided among {shard_count} hosts'
    )

  def read(group: np.ndarray, rng: np.random.Generator) -> Any:
    return cut([source[int(i)] for i in group], rng)

  dataset = grain.MapDataset.range(shard_index, len(source), shard_count)
  # Each host needs its own seed, or all would draw the same offsets and noise.
  sequence = np.random.SeedSequence([seed, shard_index])
  dataset = dataset.seed(int(sequence.generate_state(1)[0]))
  dataset = dataset.shuffle().batch(group_size).repeat(num_epochs)
  dataset = dataset.random_map(read).to_iter_dataset(
    grain.ReadOptions(
      num_threads=num_threads, prefetch_buffer_size=2 * num_threads
    )
  )
  return grain.experimental.RebatchIterDataset(dataset, batch_size)
