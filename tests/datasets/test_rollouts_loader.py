import itertools
import shutil
import subprocess
import sys

from carracing_data import errors
from carracing_data import prepared_dataset
from carracing_data import verification
from carracing_rollouts import loader
from carracing_rollouts import schema
from carracing_rollouts import who_drove
from conftest import VERSION
import numpy as np
import pytest
from tools.view_rollouts import replay

NAME = 'carracing_rollouts/tiny'
FRAMES = 3 * 71  # In the train split.


def digests(batches):
  return [frame.tobytes() for batch in batches for frame in batch]


@pytest.fixture
def expected(data_dir):
  """All frames of the train split, sorted."""
  episodes = loader.episodes(NAME, data_dir=data_dir)
  return sorted(digests(episode.observation for episode in episodes))


def test_every_frame_comes_exactly_once_an_epoch(data_dir, expected):
  batches = list(
    loader.frames(NAME, batch_size=50, num_epochs=1, data_dir=data_dir)
  )
  # No padding: an episode has 71 steps, so its last segment is mostly padding.
  assert [len(batch) for batch in batches] == [50, 50, 50, 50, 13]
  assert batches[0].shape == (50, 64, 64, 3) and batches[0].dtype == np.uint8
  assert sorted(digests(batches)) == expected


def test_epochs_follow_each_other_in_new_orders(data_dir, expected):
  frames = loader.frames(NAME, batch_size=10, data_dir=data_dir)
  stream = digests(itertools.islice(frames, 2 * FRAMES // 10 + 1))
  first, second = stream[:FRAMES], stream[FRAMES : 2 * FRAMES]
  assert sorted(first) == sorted(second) == expected
  assert first != second


def test_order_depends_on_the_seed_only(data_dir):
  def order(**kwargs):
    return digests(
      loader.frames(
        NAME, batch_size=50, num_epochs=1, data_dir=data_dir, **kwargs
      )
    )

  assert order(num_threads=0) == order(num_threads=3)
  assert order(seed=1) != order(seed=2)


def test_iterator_resumes_exactly(data_dir):
  frames = loader.frames(NAME, batch_size=20, data_dir=data_dir)
  iterator = iter(frames)
  for _ in range(7):
    next(iterator)
  state = iterator.get_state()
  expected = [next(iterator) for _ in range(10)]  # Past the end of the epoch.

  resumed = iter(frames)
  resumed.set_state(state)

  for batch in expected:
    np.testing.assert_array_equal(next(resumed), batch)


def test_shards_are_disjoint_and_complete(data_dir, expected):
  shards = [
    digests(
      loader.frames(
        NAME,
        batch_size=20,
        num_epochs=1,
        data_dir=data_dir,
        shard_index=index,
        shard_count=2,
      )
    )
    for index in range(2)
  ]
  assert sorted(shards[0] + shards[1]) == expected


def test_reading_needs_neither_tensorflow_nor_the_simulator(data_dir):
  code = f"""
import sys
from carracing_rollouts import loader
from carracing_rollouts import schema
batch = next(iter(loader.frames({NAME!r}, batch_size=8,
                                data_dir={str(data_dir)!r})))
assert len(batch) == 8
print({{'tensorflow', 'gymnasium'}} & set(sys.modules))
"""
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True
  )
  assert done.stdout.strip() == 'set()', done.stderr


def test_a_forked_reader_names_spawn(data_dir):
  code = f"""
import os
from carracing_rollouts import loader
data = dict(name={NAME!r}, data_dir={str(data_dir)!r})
next(iter(loader.frames(**data, batch_size=8)))
episodes = loader.episodes(**data)
if os.fork() == 0:
  len(episodes[1])
os.wait()
"""
  # Until it ended with an error, it crashed.
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, timeout=120
  )
  assert 'ArrayRecord does not survive the fork' in done.stderr


def test_windows_hold_each_transition_once_an_epoch(data_dir):
  """Of the episodes, each 70 transitions, some 24 to a window."""
  names = [NAME, 'carracing_rollouts/straight_ahead']
  expected = {}
  for name in names:
    for x in loader.episodes(name, data_dir=data_dir):
      for t in range(len(x) - 1):
        key = x.observation[t : t + 2].tobytes() + x.action[t].tobytes()
        rest = x.reward[t], x.is_terminal[t + 1], x.is_intervention[t]
        expected.setdefault(key, []).append(rest)
  windows = loader.windows(
    names, batch_size=5, window_steps=24, num_epochs=1, data_dir=data_dir
  )
  for batch in windows:
    assert batch.observation.shape[1:] == (25, 64, 64, 3)
    assert len(batch.observation) <= 5
    for x in map(loader.Windows._make, zip(*batch)):
      length = x.mask.sum()
      assert length and x.mask[:length].all()
      assert not any(values[length:].any() for values in x[1:])
      assert not x.observation[length + 1 :].any()
      for t in range(length):
        key = x.observation[t : t + 2].tobytes() + x.action[t].tobytes()
        expected[key].remove((x.reward[t], x.terminal[t], x.is_intervention[t]))
  assert not any(expected.values())


def test_spread_frames_are_the_same_as_of_the_episodes(data_dir):
  episodes = loader.episodes(NAME, data_dir=data_dir)
  frames = np.concatenate([episode.observation for episode in episodes])
  for count in 1, 7, 100, len(frames), 10**6:
    found = loader.spread_frames(
      NAME, split='train', count=count, data_dir=data_dir
    )
    places = np.linspace(0, FRAMES - 1, min(count, FRAMES)).round().astype(int)
    np.testing.assert_array_equal(found, frames[places])


def test_several_datasets_are_read_as_one(data_dir):
  names = [NAME, 'carracing_rollouts/straight_ahead']
  parts = [
    loader.spread_frames(x, split='train', count=10**6, data_dir=data_dir)
    for x in names
  ]
  frames = np.concatenate(parts)
  spread = loader.spread_frames(
    names, split='train', count=50, data_dir=data_dir
  )
  places = np.linspace(0, len(frames) - 1, 50).round().astype(int)
  np.testing.assert_array_equal(spread, frames[places])
  batches = loader.frames(names, batch_size=32, num_epochs=1, data_dir=data_dir)
  found = np.concatenate(list(batches))
  assert sorted(x.tobytes() for x in found) == sorted(
    x.tobytes() for x in frames
  )


def test_records_are_a_sequence(data_dir):
  records = prepared_dataset.find(NAME, data_dir, schema.KIND).records(
    'train', ['length']
  )
  lengths = [int(record['length']) for record in records]
  assert lengths == [32, 32, 7] * 3
  assert records[-1] == records[8]
  assert [int(r['length']) for r in records[1:8:2]] == lengths[1:8:2]
  for index in 9, -10:
    with pytest.raises(IndexError):
      records[index]


def test_newest_version_is_found(data_dir, tmp_path):
  folder = tmp_path / 'carracing_rollouts' / 'tiny'
  source = prepared_dataset.find(NAME, data_dir).folder
  for name in VERSION, '0.9.10', 'incomplete_9.9.9':
    shutil.copytree(source, folder / name)
  assert prepared_dataset.find(NAME, tmp_path).folder == folder / VERSION
  # The version of the folder differs from that of its documents.
  with pytest.raises(errors.DatasetError, match=r'0\.9\.10.* is not'):
    prepared_dataset.find(f'{NAME}:0.9.10', tmp_path)


def test_missing_dataset_names_the_command(tmp_path):
  with pytest.raises(errors.DatasetError) as caught:
    loader.frames('carracing_rollouts/big', batch_size=1, data_dir=tmp_path)
  assert 'tfds build datasets/carracing_rollouts' in str(caught.value)
  assert '"name": "big"' in str(caught.value)


def test_missing_split_names_those_there_are(data_dir):
  with pytest.raises(errors.DatasetError, match='only train, validation'):
    loader.frames(NAME, split='test', batch_size=1, data_dir=data_dir)


def test_a_dataset_of_version_1_is_read_and_verified(version_1, caplog):
  dataset = prepared_dataset.find(
    'carracing_rollouts/kept:1.1.0@0830f6da9908', version_1, schema.KIND
  )
  verification.verify(dataset)
  for split in schema.SPLITS:
    [episode] = loader.episodes(str(dataset.folder), split=split)
    assert len(episode) == 5 and not episode.is_intervention.any()
    [origin] = who_drove.of_split(dataset, split)
    assert origin.track_seed < 2**31 and origin.driver.title == 'uniform'
    # It is sketched, and sketches have changed since.
    assert replay.replay(dataset, origin.track_seed, episode) is None
    assert 'from step 0 on' in caplog.text
    assert f'as 1.1.0 with {dataset.metadata.packages}' in caplog.text
    assert f'; here: {VERSION} with' in caplog.text


def test_episodes_end_as_sequences_do(data_dir):
  found = loader.episodes(NAME, data_dir=data_dir)
  for index in 3, 99, -4:
    with pytest.raises(IndexError):
      found[index]
  same = found[-1], found[1:][1], [*found][2], next(reversed(found))
  assert len(found[1:]) == 2
  for episode in same:
    np.testing.assert_array_equal(episode.action, found[2].action)


def test_a_folder_may_be_a_path(data_dir):
  folder = data_dir / 'carracing_rollouts' / 'tiny' / VERSION
  assert len(loader.episodes(folder)) == 3
  for name in folder, [folder]:
    assert next(iter(loader.frames(name, batch_size=2))).shape[0] == 2


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'batch_size': 0}, 'batch_size is 0, not an integer from 1'),
    ({'batch_size': 10**9}, 'batch_size is 1000000000, not an integer from 1'),
    ({'batch_size': 4.0}, 'batch_size is 4.0, not an integer from 1'),
    ({'num_threads': 1.5}, 'num_threads is 1.5, not an integer from 0'),
    ({'num_epochs': 0}, 'num_epochs is 0, not an integer from 1'),
    ({'seed': -1}, 'seed is -1, not an integer from 0'),
    ({'shard_index': -1}, 'shard_index is -1, not an integer from 0'),
    ({'shard_index': 2, 'shard_count': 2}, 'shard_index is 2, not below 2'),
    ({'shard_count': 0}, 'shard_count is 0, not an integer from 1'),
  ],
)
def test_numbers_out_of_their_ranges_are_named(given, message, data_dir):
  with pytest.raises(ValueError, match=message):
    loader.frames(NAME, data_dir=data_dir, **{'batch_size': 2, **given})


@pytest.mark.parametrize(
  ('names', 'message'),
  [([], 'no dataset is named'), ([NAME, NAME], 'tiny.* is named twice')],
)
def test_each_dataset_is_read_once(names, message, data_dir):
  with pytest.raises(errors.DatasetError, match=message):
    loader.frames(names, data_dir=data_dir, batch_size=2)


def test_no_frames_are_no_set(data_dir):
  with pytest.raises(ValueError, match='count is 0, not an integer from 1'):
    loader.spread_frames(NAME, count=0, data_dir=data_dir)
