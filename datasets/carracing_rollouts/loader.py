"""A prepared `carracing_rollouts` dataset → frames, windows, or episodes.

  from carracing_rollouts import loader
  for frames in loader.frames('carracing_rollouts', batch_size=100): ...

Needs only the data directory, not TensorFlow, the builder or the simulator.
"""

from collections.abc import Mapping, Sequence
import functools
from typing import Any, NamedTuple

from carracing_data import batches
from carracing_data import errors
from carracing_data import prepared_dataset
from carracing_data import rlds_steps
from carracing_rollouts import schema
from etils import epath
import grain
import numpy as np

# Segments that are shuffled together: 6,400 frames, 79 MB. V learns better than
# with 50 and no worse than with 800; see docs/EVIDENCE.md.
_GROUP_SIZE = 200
_GROUP_EPISODES = 4  # Whose windows are shuffled together: 50 MB.


class Windows(NamedTuple):
  """Windows of T consecutive transitions of one episode.

  Attributes:
    observation: uint8 [B, T + 1, 64, 64, 3], 0..255: before each action, and
      after the last one.
    action: float32 [B, T, 3]: steering −1..1, gas 0..1, brake 0..1.
    is_intervention: bool [B, T], see `schema.Episode`.
    reward: float32 [B, T], reward of the action.
    terminal: bool [B, T], whether the action ended the task.
    mask: bool [B, T], False after the last transition of a window; all else is
      zero there.
  """

  observation: np.ndarray
  action: np.ndarray
  is_intervention: np.ndarray
  reward: np.ndarray
  terminal: np.ndarray
  mask: np.ndarray


def frames(
  name: epath.PathLike | Sequence[epath.PathLike] = 'carracing_rollouts',
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
  """Returns shuffled batches with each frame exactly once per epoch.

  Shuffling is local: each epoch reorders the segments of 32 consecutive frames,
  and the frames of 200 consecutive segments are shuffled together.

  Args:
    name: `dataset/config:version`, see `prepared_dataset.find`; or several
      ones, which are read as one.
    split: `train` or `validation`.
    batch_size: frames per batch.
    seed: seed of the order.
    num_epochs: number of passes over the data; endless if None.
    data_dir: data directory, see `prepared_dataset.find`.
    shard_index: index of this host.
    shard_count: number of hosts, which divide the split among them.
    num_threads: number of read-ahead threads; does not affect the order.

  Returns:
    A Grain dataset of uint8 [batch_size, 64, 64, 3], 0..255; only the last
    batch of the last epoch may be smaller.

  Raises:
    errors.DatasetError: the dataset or the split is missing.
    ValueError: a number is out of its range.
  """
  return batches.shuffled(
    prepared_dataset.concatenated(
      [
        x.records(split, ['observation', 'length'])
        for x in prepared_dataset.find_each(name, data_dir, schema.KIND)
      ]
    ),
    _shuffled_frames,
    batch_size=batch_size,
    group_size=_GROUP_SIZE,
    seed=seed,
    num_epochs=num_epochs,
    shard_index=shard_index,
    shard_count=shard_count,
    num_threads=num_threads,
  )


def windows(
  name: epath.PathLike | Sequence[epath.PathLike] = 'carracing_rollouts',
  *,
  split: str = 'train',
  batch_size: int,
  window_steps: int,
  seed: int = 0,
  num_epochs: int | None = None,
  data_dir: epath.PathLike | None = None,
  shard_index: int = 0,
  shard_count: int = 1,
  num_threads: int = 2,
) -> grain.IterDataset:
  """Returns shuffled windows with each transition exactly once per epoch.

  For models of sequences that learn from frames. Episodes are cut at other
  places in each epoch, see `batches.windows`; each epoch reorders them, and the
  windows of 4 consecutive ones are shuffled together.

  Args:
    name: `dataset/config:version`, see `prepared_dataset.find`; or several
      ones, which are read as one.
    split: `train` or `validation`.
    batch_size: windows per batch.
    window_steps: transitions per window, T.
    seed: seed of the order and the offsets.
    num_epochs: number of passes over the data; endless if None.
    data_dir: data directory, see `prepared_dataset.find`.
    shard_index: index of this host.
    shard_count: number of hosts, which divide the episodes among them.
    num_threads: number of read-ahead threads; does not affect the order.

  Returns:
    A Grain dataset of `Windows`; only the last batch of the last epoch may be
    smaller.

  Raises:
    errors.DatasetError: the dataset or the split is missing.
    ValueError: a number is out of its range.
  """
  batches.check_integers(1, window_steps=window_steps)
  return batches.shuffled(
    prepared_dataset.concatenated(
      [
        _episodes(x, split)
        for x in prepared_dataset.find_each(name, data_dir, schema.KIND)
      ]
    ),
    functools.partial(_windows, window_steps=window_steps),
    batch_size=batch_size,
    group_size=_GROUP_EPISODES,
    seed=seed,
    num_epochs=num_epochs,
    shard_index=shard_index,
    shard_count=shard_count,
    num_threads=num_threads,
  )


def spread_frames(
  name: epath.PathLike | Sequence[epath.PathLike] = 'carracing_rollouts',
  *,
  split: str = 'validation',
  count: int,
  data_dir: epath.PathLike | None = None,
) -> np.ndarray:
  """Returns a fixed set of frames, spread evenly over a split.

  Args:
    name: see `frames`.
    split: `train` or `validation`.
    count: number of frames, at least 1; all if the split has fewer.
    data_dir: data directory, see `prepared_dataset.find`.

  Returns:
    uint8 [count, 64, 64, 3], 0..255, in the order of the splits.

  Raises:
    errors.DatasetError: the dataset or the split is missing.
    ValueError: the count is out of its range.
  """
  batches.check_integers(1, count=count)
  datasets = prepared_dataset.find_each(name, data_dir, schema.KIND)
  source = prepared_dataset.concatenated(
    [x.records(split, ['observation', 'length']) for x in datasets]
  )
  ends = np.cumsum([n for x in datasets for n in x.splits[split].episode_steps])
  total = int(ends[-1])
  count = min(count, total)
  frame = np.linspace(0, total - 1, count).round().astype(int)
  episode = np.searchsorted(ends, frame, side='right')
  starts = np.concatenate([[0], ends[:-1]])
  segments = np.array([schema.count_segments(steps) for steps in ends - starts])
  first_segment = np.cumsum(segments) - segments
  segment, row = np.divmod(frame - starts[episode], schema.SEGMENT_STEPS)
  record = first_segment[episode] + segment
  picked = []
  for index in np.unique(record).tolist():
    rows, found = row[record == index], source[index]
    if rows.max() >= found['length']:
      raise errors.DatasetError(
        f'the shards of {name} are mixed up; diagnose it with tools.verify'
      )
    picked.append(found['observation'][rows])
  return np.concatenate(picked)


def episodes(
  name: epath.PathLike = 'carracing_rollouts',
  *,
  split: str = 'train',
  data_dir: epath.PathLike | None = None,
) -> Sequence[schema.Episode]:
  """Returns the episodes of a split, in order, each read on access.

  Args:
    name: `dataset/config:version`, see `prepared_dataset.find`.
    split: `train` or `validation`.
    data_dir: data directory, see `prepared_dataset.find`.

  Returns:
    A sequence; `grain.MapDataset.source` makes a Grain dataset of it.

  Raises:
    errors.DatasetError: the dataset or the split is missing.
  """
  return _episodes(prepared_dataset.find(name, data_dir, schema.KIND), split)


def _episodes(
  dataset: prepared_dataset.Dataset, split: str
) -> Sequence[schema.Episode]:
  records = dataset.records(split)
  steps = dataset.splits[split].episode_steps
  ends = np.cumsum([schema.count_segments(n) for n in steps])
  bounds = [0, *ends.tolist()]
  read = functools.partial(_read_episode, dataset, records, bounds, steps)
  return prepared_dataset.Lazy(read, range(len(ends)))


def _read_episode(
  dataset: prepared_dataset.Dataset,
  records: prepared_dataset.Records,
  bounds: Sequence[int],
  steps: Sequence[int],
  episode_id: int,
) -> schema.Episode:
  segments = records[bounds[episode_id] : bounds[episode_id + 1]]
  for index, segment in enumerate(segments):
    first = index * schema.SEGMENT_STEPS
    length = min(schema.SEGMENT_STEPS, steps[episode_id] - first)
    wanted = {'episode_id': episode_id, 'first_step': first, 'length': length}
    if any(segment[name] != value for name, value in wanted.items()):
      raise errors.DatasetError(
        f'segment {index} of episode {episode_id} is missing: the shards are'
        ' mixed up; diagnose it with: python -m tools.verify'
        f' --dataset={dataset.folder}'
      )
  episode = schema.join(segments)
  for problem in rlds_steps.broken_promises(vars(episode)):
    raise errors.DatasetError(
      f'episode {episode_id}: {problem}; diagnose it with: python -m'
      f' tools.verify --dataset={dataset.folder}'
    )
  return episode


def _windows(
  episodes: Sequence[schema.Episode],
  rng: np.random.Generator,
  window_steps: int,
) -> Windows:
  return batches.windows(
    (
      Windows(
        observation=x.observation,
        action=x.action[:-1],
        is_intervention=x.is_intervention[:-1],
        reward=x.reward[:-1],
        terminal=x.is_terminal[1:],
        mask=np.ones(len(x) - 1, bool),
      )
      for x in episodes
    ),
    window_steps,
    rng,
  )


def _shuffled_frames(
  records: Sequence[Mapping[str, Any]], rng: np.random.Generator
) -> np.ndarray:
  lengths = [int(record['length']) for record in records]
  places = rng.permutation(sum(lengths))
  shape = records[0]['observation'].shape[1:]
  frames = np.empty((len(places), *shape), np.uint8)
  # Copied straight to the shuffled positions; joining first would copy twice.
  ends = np.cumsum(lengths)
  for record, length, end in zip(records, lengths, ends):
    frames[places[end - length : end]] = record['observation'][:length]
  return frames
