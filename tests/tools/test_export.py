"""Exports of datasets are read back by the libraries of the others."""

import dataclasses
import json
from pathlib import Path
import shutil
import subprocess
import sys

from carracing_data import errors
from carracing_data import metadata
from carracing_data import prepared_dataset
from carracing_rollouts import (
  carracing_rollouts_dataset_builder as rollouts_builder,
)
from carracing_rollouts import environment
from carracing_rollouts import loader
from carracing_rollouts import schema
from carracing_rollouts import who_drove
from conftest import LATENTS_VERSION
from conftest import VERSION
import datasets
import minari
import mlcroissant
import numpy as np
import pytest
import tensorflow_datasets as tfds
from tools.export import croissant
from tools.export import hub_datasets
from tools.export import minari_datasets
from tools.export import rlds_datasets

TINY = 'carracing_rollouts/tiny'
# Names of splits at Minari.
SPLITS = [
  f'{split}-v{VERSION.partition(".")[0]}' for split in ('train', 'validation')
]


def content(folder):
  return {
    path.relative_to(folder): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


def read_both(name, data_dir):
  """Yields the splits of a dataset with their episodes and drivers."""
  builder = prepared_dataset.find(name, data_dir)
  for split in schema.SPLITS:
    episodes = loader.episodes(name, split=split, data_dir=data_dir)
    yield split, episodes, who_drove.of_split(builder, split)


def assert_same(ours, theirs):
  theirs = np.asarray(theirs)
  assert ours.dtype == theirs.dtype
  np.testing.assert_array_equal(ours, theirs)


def assert_steps_equal(steps, episode):
  assert len(steps) == len(episode)
  for name, values in vars(episode).items():
    np.testing.assert_array_equal(
      np.stack([step[name] for step in steps]), values
    )


def test_rlds_view_has_the_steps_of_the_episodes(data_dir):
  view = list(rlds_datasets.episodes(TINY, data_dir=data_dir))
  assert [episode['episode_id'] for episode in view] == [0, 1, 2]
  for nested, episode in zip(view, loader.episodes(TINY, data_dir=data_dir)):
    assert_steps_equal(nested['steps'], episode)


def test_rlds_export_to_a_full_disk_is_one_line(data_dir, command, tmp_path):
  out = f'--output_dir={tmp_path}'
  source = f'--dataset={TINY}', f'--data_dir={data_dir}'
  arguments = '--format=rlds', *source, out
  done = command('tools.export', *arguments, file_bytes=9_000)
  assert done.status == 1 and 'Traceback' not in done.stderr, done.stderr
  assert f'Error: cannot write to {tmp_path}: ' in done.stderr
  left = [x.name for x in tmp_path.rglob('*') if x.is_file()]
  assert left == ['.lock']


def test_rlds_export_is_read_by_plain_tfds(data_dir, command, tmp_path):
  flags = (
    '--format=rlds', f'--dataset={TINY}', f'--data_dir={data_dir}',
    f'--output_dir={tmp_path}',
  )  # fmt: skip
  done = command('tools.export', *flags)
  assert done.status == 0, done.stderr
  reader = f"""
import numpy as np
import tensorflow_datasets as tfds
dataset = tfds.load('carracing_rlds/tiny', split='train',
                    data_dir={str(tmp_path)!r})
for index, episode in enumerate(dataset):
  steps = list(tfds.as_numpy(episode['steps']))
  np.save({str(tmp_path)!r} + f'/{{index}}.npy', steps, allow_pickle=True)
"""
  subprocess.run([sys.executable, '-c', reader], check=True, cwd=tmp_path)
  for index, episode in enumerate(loader.episodes(TINY, data_dir=data_dir)):
    steps = np.load(tmp_path / f'{index}.npy', allow_pickle=True)
    assert_steps_equal(list(steps), episode)

  exported = tfds.builder_from_directory(
    tmp_path / 'carracing_rlds' / 'tiny' / VERSION
  )
  source = prepared_dataset.find(TINY, data_dir)
  assert dict(exported.info.metadata) == source.metadata.model_dump(
    exclude_unset=True
  )

  again = command('tools.export', *flags)
  assert again.status == 1
  assert 'choose another --output_dir' in again.stderr


@pytest.mark.parametrize('name', [TINY, 'carracing_latents/tiny'])
def test_croissant_description_is_valid(name, world, command, tmp_path):
  done = command(
    'tools.export',
    '--format=croissant', f'--dataset={name}', f'--data_dir={world.data_dir}',
    f'--output_dir={tmp_path}',
  )  # fmt: skip
  assert done.status == 0, done.stderr
  dataset = mlcroissant.Dataset(str(tmp_path / 'croissant.json'))
  assert not dataset.metadata.issues.errors
  recorded = prepared_dataset.find(name, world.data_dir).splits
  splits = {row['splits/name']: row for row in dataset.records('splits')}
  assert splits.keys() == {'train', 'validation'}
  for split, row in splits.items():
    for key in 'num_steps', 'num_terminated', 'content_sha256', 'return_mean':
      assert row[f'splits/{key}'] == getattr(recorded[split], key)
  shapes = {
    row['features/name']: row['features/shape']
    for row in dataset.records('features')
  }
  assert shapes['action'] in ('[32, 3]', '[None, 3]')
  description = json.loads((tmp_path / 'croissant.json').read_text())
  files = [d for d in description['distribution'] if 'sha256' in d]
  assert len(files) == 4


def test_minari_exports_to_a_relative_folder(command, data_dir, tmp_path):
  done = command(
    'tools.export',
    '--format=minari',
    '--dataset=carracing_rollouts/tiny',
    f'--data_dir={data_dir}',
    '--output_dir=here',
    cwd=tmp_path,
  )
  assert done.status == 0, done.stderr
  folder = tmp_path / 'here' / 'minari'
  assert f'MINARI_DATASETS_PATH={folder}' in done.stderr
  assert (folder / 'carracing_rollouts' / 'tiny' / SPLITS[0]).is_dir()


@pytest.mark.parametrize('name', ['tiny', 'straight_ahead'])
def test_minari_reads_the_same_episodes(name, data_dir, tmp_path, monkeypatch):
  monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path / 'minari'))
  name = f'carracing_rollouts/{name}'
  minari_datasets.export(name, tmp_path, str(data_dir))
  ids = [f'{name}/{split}' for split in SPLITS]
  assert sorted(minari.list_local_datasets()) == ids
  both = read_both(name, data_dir)
  for dataset_id, (split, episodes, of_split) in zip(ids, both, strict=True):
    dataset = minari.load_dataset(dataset_id)
    metadata = dataset.storage.metadata
    source = prepared_dataset.find(name, data_dir)
    digest = source.content_digests[split]
    assert metadata['source_content_sha256'] == digest
    assert dataset.total_steps == sum(len(x) - 1 for x in episodes)
    known = dataset.storage.get_episode_metadata(range(len(dataset)))
    for ours, theirs, origin, about in zip(
      episodes, dataset, of_split, known, strict=True
    ):
      assert_same(ours.observation, theirs.observations)
      assert_same(ours.action[:-1], theirs.actions)
      assert_same(ours.reward[:-1], theirs.rewards)
      ends = theirs.terminations[-1], theirs.truncations[-1]
      assert ends == (ours.is_terminal[-1], not ours.is_terminal[-1])
      assert not theirs.terminations[:-1].any()
      assert not theirs.truncations[:-1].any()
      assert about['seed'] == origin.track_seed
      assert about['driver']['name'] == origin.driver.name
      assert dataset.observation_space.contains(theirs.observations[0])
      assert all(map(dataset.action_space.contains, theirs.actions))


def test_the_game_that_minari_recovers_replays_an_episode(
  data_dir, tmp_path, monkeypatch
):
  monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path / 'minari'))
  minari_datasets.export(TINY, tmp_path, str(data_dir))
  dataset = minari.load_dataset(f'{TINY}/{SPLITS[0]}')
  [about] = dataset.storage.get_episode_metadata([0])
  game, episode = dataset.recover_environment(), dataset[0]
  frame, _ = game.reset(seed=about['seed'])
  for i, action in enumerate(episode.actions):
    assert_same(environment.resize(frame[None])[0], episode.observations[i])
    frame, reward, terminated, truncated, _ = game.step(action)
    assert (np.float32(reward), terminated, truncated) == (
      episode.rewards[i],
      episode.terminations[i],
      episode.truncations[i],
    )
  game.close()


def test_minari_exports_of_the_same_data_are_the_same_bytes(data_dir, tmp_path):
  for folder in 'a', 'b':
    minari_datasets.export(TINY, tmp_path / folder, str(data_dir))
  assert content(tmp_path / 'a') == content(tmp_path / 'b')


def test_a_damaged_dataset_leaves_no_export(data_dir, tmp_path):
  source = prepared_dataset.find(TINY, data_dir).folder
  damaged = tmp_path / 'data' / 'carracing_rollouts' / 'tiny' / source.name
  shutil.copytree(source, damaged)
  [shard] = damaged.glob('*validation*')
  shard.write_bytes(shard.read_bytes()[:-100])
  out = tmp_path / 'out'
  for export in hub_datasets.export, minari_datasets.export:
    with pytest.raises(errors.UserError, match='tools.verify'):
      export(TINY, out, str(tmp_path / 'data'))
  assert not [x for x in out.rglob('*') if x.is_file() and x.name != '.lock']


def test_datasets_are_read_without_tensorflow_and_this_project(world, tmp_path):
  # An environment with all packages except these.
  site = Path(tfds.__file__).parents[1]
  for entry in site.iterdir():
    name = entry.name.lower()
    if name not in ('tensorflow', 'keras') and not name.endswith('.pth'):
      (tmp_path / entry.name).symlink_to(entry)
  reader = f"""
import sys
sys.path.append({str(tmp_path)!r})
import tensorflow_datasets as tfds
for name, version in (
    ('carracing_rollouts', '{VERSION}'),
    ('carracing_latents', '{LATENTS_VERSION}'),
):
  folder = {str(world.data_dir)!r} + f'/{{name}}/tiny/{{version}}'
  source = tfds.builder_from_directory(folder).as_data_source(split='train')
  print(name, len(source), source[0]['action'].shape)
for name in 'tensorflow', 'carracing_data':
  try:
    __import__(name)
  except ImportError:
    print('no', name)
"""
  done = subprocess.run(
    [sys.executable, '-I', '-S', '-c', reader], capture_output=True, text=True
  )
  assert done.stdout.splitlines() == [
    'carracing_rollouts 9 (32, 3)',
    'carracing_latents 3 (71, 3)',
    'no tensorflow',
    'no carracing_data',
  ], done.stderr


@pytest.fixture
def windy(tmp_path, monkeypatch):
  """A dataset whose steps have two features more than the schema knows."""

  @dataclasses.dataclass(frozen=True)
  class Episode(schema.Episode):
    speed: np.ndarray | None = None
    wind: np.ndarray | None = None

    def __post_init__(self):
      if self.speed is None:
        speed = np.arange(len(self), dtype=np.float32) / 7
        object.__setattr__(self, 'speed', speed)
        object.__setattr__(self, 'wind', np.stack([speed, -speed], axis=1))

  fields = [field.name for field in dataclasses.fields(Episode)]
  features = {
    **schema.KIND.features,
    'speed': metadata.Feature('float32', (schema.SEGMENT_STEPS,)),
    'wind': metadata.Feature('float32', (schema.SEGMENT_STEPS, 2)),
  }
  monkeypatch.setattr(schema, 'Episode', Episode)
  monkeypatch.setattr(schema, '_STEP_FIELDS', fields)
  monkeypatch.setattr(schema, 'KIND', schema.KIND._replace(features=features))
  rollouts_builder.Builder(
    data_dir=tmp_path / 'data',
    config=rollouts_builder.RolloutsConfig(
      name='windy', num_episodes=2, max_steps=40, simulator='sketched'
    ),
    num_workers=1,
  ).download_and_prepare()
  return 'carracing_rollouts/windy', str(tmp_path / 'data')


def test_no_export_drops_a_new_feature(windy, tmp_path, monkeypatch):
  name, data_dir = windy
  for exporter in croissant, hub_datasets, minari_datasets, rlds_datasets:
    exporter.export(name, tmp_path, data_dir)
  [ours] = loader.episodes(name, data_dir=data_dir)
  assert np.ptp(ours.speed) > 5  # Two segments.

  monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path / 'minari'))
  [theirs] = minari.load_dataset(f'{name}/{SPLITS[0]}')
  rows = datasets.load_dataset(
    str(tmp_path / 'carracing_rollouts-windy'),
    split='train',
    cache_dir=str(tmp_path / 'cache'),
  ).with_format('numpy')
  rlds = tfds.builder_from_directory(
    tmp_path / 'carracing_rlds' / 'windy' / VERSION
  )
  [nested] = rlds.as_dataset(split='train')
  steps = list(tfds.as_numpy(nested['steps']))
  for feature in 'speed', 'wind':
    expected = getattr(ours, feature)
    assert_same(expected, theirs.infos[feature])
    assert_same(expected, rows[feature])
    assert_same(expected, [step[feature] for step in steps])
  card = (tmp_path / 'carracing_rollouts-windy' / 'README.md').read_text()
  assert '| `speed` | float32 |  |\n| `wind` | float32 [2] |  |\n' in card
  described = mlcroissant.Dataset(str(tmp_path / 'croissant.json'))
  names = {row['features/name'] for row in described.records('features')}
  assert {'speed', 'wind'} <= names


def test_exports_of_version_1_lack_what_it_lacks(version_1, tmp_path):
  name = 'carracing_rollouts/kept'
  for exporter in croissant, hub_datasets, minari_datasets, rlds_datasets:
    exporter.export(name, tmp_path, str(version_1))
  [nested] = rlds_datasets.episodes(name, data_dir=str(version_1))
  assert len(nested['steps']) == 5
  assert 'is_intervention' not in nested['steps'][0]
  rows = datasets.load_dataset(
    str(tmp_path / 'carracing_rollouts-kept'),
    split='train',
    cache_dir=str(tmp_path / 'cache'),
  )
  assert len(rows) == 5 and 'is_intervention' not in rows.column_names
