"""A prepared `carracing_rollouts` dataset → frames for training, or episodes.

  from carracing_rollouts import loader
  for frames in loader.frames('carracing_rollouts', batch_size=100): ...

Needs the data directory only: neither TensorFlow, nor the builder, nor the
simulator.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from carracing_data import batches
from carracing_data import errors
from carracing_data import prepared
from carracing_rollouts import schema
from etils import epath
import grain
import numpy as np

# Segments that are shuffled together: 6,400 frames, 79 MB. V learns better than
# from 50, and no better from 800; see BUILD.md.
_GROUP_SIZE = 200


def frames(
  name: str = 'carracing_rollouts',
  *,
  split: str = 'train',
  batch_size: int,
  seed: int = 0,
  num_epochs: int | None = None,
  data_dir: epath.PathLike | None = None,
  shard_index: int = 0,
  shard_count: int = 1,
  num_threads: int = 2,
) -> grain.IterDataset:
  """Returns shuffled frames, every one of the split exactly once an epoch.

  Shuffling is local: in each epoch the segments of 32 consecutive frames come
  in a new order, and the frames of 200 segments in a row are shuffled among
  themselves.

  Args:
    name: `dataset/config:version`, see `prepared.find`.
    split: `train` or `validation`.
    batch_size: frames in a batch.
    seed: of the order.
    num_epochs: passes over the data; endless if None.
    data_dir: where the dataset lies, see `prepared.find`.
    shard_index: which part of the split this host reads.
    shard_count: how many hosts read the split.
    num_threads: how many threads read ahead; has no influence on the order.

  Returns:
    A Grain dataset of uint8 [batch_size, 64, 64, 3], 0..255; only the last
    batch of the last epoch may be smaller.

  Raises:
    errors.DatasetError: the dataset or the split is missing.
  """
  source = prepared.records(
    prepared.find(name, data_dir, schema.KIND), split, ['observation', 'length']
  )
  return batches.shuffled(
    source,
    _shuffled_frames,
    batch_size=batch_size,
    group_size=_GROUP_SIZE,
    seed=seed,
    num_epochs=num_epochs,
    shard_index=shard_index,
    shard_count=shard_count,
    num_threads=num_threads,
  )


def spread_frames(
  name: str = 'carracing_rollouts',
  *,
  split: str = 'validation',
  count: int,
  data_dir: epath.PathLike | None = None,
) -> np.ndarray:
  """Returns frames spread evenly over a split, always the same ones.

  Args:
    name: `dataset/config:version`, see `prepared.find`.
    split: `train` or `validation`.
    count: how many frames; all of them if the split has fewer.
    data_dir: where the dataset lies, see `prepared.find`.

  Returns:
    uint8 [count, 64, 64, 3], 0..255, in their order in the split.

  Raises:
    errors.DatasetError: the dataset or the split is missing.
  """
  builder = prepared.find(name, data_dir, schema.KIND)
  source = prepared.records(builder, split, ['observation'])
  ends = np.cumsum(builder.info.metadata['splits'][split]['episode_steps'])
  total = int(ends[-1])
  count = min(count, total)
  frame = np.linspace(0, total - 1, count).round().astype(int)
  episode = np.searchsorted(ends, frame, side='right')
  starts = np.concatenate([[0], ends[:-1]])
  segments = np.array([schema.count_segments(steps) for steps in ends - starts])
  first_segment = np.cumsum(segments) - segments
  segment, row = np.divmod(frame - starts[episode], schema.SEGMENT_STEPS)
  record = first_segment[episode] + segment
  picked = [
    source[index]['observation'][row[record == index]]
    for index in np.unique(record).tolist()
  ]
  return np.concatenate(picked)


def episodes(
  name: str = 'carracing_rollouts',
  *,
  split: str = 'train',
  data_dir: epath.PathLike | None = None,
) -> Sequence[schema.Episode]:
  """Returns the episodes of a split, in order, each read when it is asked for.

  Args:
    name: `dataset/config:version`, see `prepared.find`.
    split: `train` or `validation`.
    data_dir: where the dataset lies, see `prepared.find`.

  Returns:
    A Grain dataset: `len(...)`, `[i]`, slices and iteration.

  Raises:
    errors.DatasetError: the dataset or the split is missing.
  """
  builder = prepared.find(name, data_dir, schema.KIND)
  source = prepared.records(builder, split)
  steps = builder.info.metadata['splits'][split]['episode_steps']
  ends = np.cumsum([schema.count_segments(n) for n in steps])
  read = _ReadEpisode(source, [0, *ends.tolist()])
  return grain.MapDataset.range(len(ends)).map(read)  # pyright: ignore


class _ReadEpisode(grain.transforms.Map):
  """Reads and joins the segments of an episode, given its number."""

  def __init__(self, source: prepared.Records, bounds: Sequence[int]):
    self._source = source
    self._bounds = bounds

  def map(self, element: int) -> schema.Episode:  # pyright: ignore
    records = range(self._bounds[element], self._bounds[element + 1])
    segments = [self._source[i] for i in records]
    for first_step, segment in enumerate(segments):
      found = int(segment['episode_id']), int(segment['first_step'])
      if found != (element, first_step * schema.SEGMENT_STEPS):
        raise errors.DatasetError(
          f'segment {first_step} of episode {element} is not there: the shards'
          ' were mixed up; look closer with: python -m tools.verify'
        )
    return schema.join(segments)


def _shuffled_frames(
  records: Sequence[Mapping[str, Any]], rng: np.random.Generator
) -> np.ndarray:
  lengths = [int(record['length']) for record in records]
  places = rng.permutation(sum(lengths))
  shape = records[0]['observation'].shape[1:]
  frames = np.empty((len(places), *shape), np.uint8)
  # Straight to their places: one copy, where joining first would take two.
  ends = np.cumsum(lengths)
  for record, length, end in zip(records, lengths, ends):
    frames[places[end - length : end]] = record['observation'][:length]
  return frames
