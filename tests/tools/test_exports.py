"""Exports are read back by the libraries of the others."""

from pathlib import Path
import shutil
import subprocess
import sys

from carracing_data import errors
from carracing_data import prepared_dataset
from carracing_rollouts import environment
from carracing_rollouts import loader
from carracing_rollouts import schema
from conftest import PROJECT
import datasets
import huggingface_hub
import minari
from models import agent
import numpy as np
from pyarrow import parquet
import pytest
import tensorflow_datasets as tfds
from tools.driving import drivers
from tools.driving import track_scores
from tools.export import hub_datasets
from tools.export import hub_models
from tools.export import minari_datasets
from tools.showing import origins

TINY = 'carracing_rollouts/tiny'


def content(folder):
  return {
    path.relative_to(folder): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


def read_both(name, data_dir):
  """Yields the splits of a dataset with their episodes and origins."""
  builder = prepared_dataset.find(name, data_dir)
  for split in schema.SPLITS:
    episodes = loader.episodes(name, split=split, data_dir=data_dir)
    yield split, episodes, origins.Origins(builder, split)


def assert_same(ours, theirs):
  theirs = np.asarray(theirs)
  assert ours.dtype == theirs.dtype
  np.testing.assert_array_equal(ours, theirs)


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
  assert (folder / 'carracing_rollouts' / 'tiny' / 'train-v1').is_dir()


@pytest.mark.parametrize('name', ['tiny', 'straight_ahead'])
def test_minari_reads_the_same_episodes(name, data_dir, tmp_path, monkeypatch):
  monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path))
  name = f'carracing_rollouts/{name}'
  ids = minari_datasets.export(name, tmp_path, str(data_dir))
  assert ids == [f'{name}/train-v1', f'{name}/validation-v1']
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
  monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path))
  [dataset_id, _] = minari_datasets.export(TINY, tmp_path, str(data_dir))
  dataset = minari.load_dataset(dataset_id)
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


@pytest.fixture(scope='module')
def hub_dataset(data_dir, tmp_path_factory):
  return hub_datasets.export(
    TINY, tmp_path_factory.mktemp('hub'), str(data_dir), steps_per_file=80
  )


@pytest.mark.parametrize('streaming', [False, True])
def test_hugging_face_reads_the_same_steps(
  streaming, hub_dataset, data_dir, tmp_path
):
  loaded = datasets.load_dataset(
    str(hub_dataset), streaming=streaming, cache_dir=str(tmp_path)
  )
  for split, episodes, of_split in read_both(TINY, data_dir):
    rows = iter(loaded[split])
    for episode_id, (ours, origin) in enumerate(zip(episodes, of_split)):
      theirs = [next(rows) for _ in range(len(ours))]
      for name, values in vars(ours).items():
        column = np.stack([np.asarray(row[name]) for row in theirs])
        np.testing.assert_array_equal(column, values)
      for step, row in enumerate(theirs):
        assert (row['episode_id'], row['step']) == (episode_id, step)
        assert row['track_seed'] == origin.track_seed
        assert row['driver'] == origin.driver.title
    assert next(rows, None) is None


def test_a_row_group_is_an_episode(hub_dataset):
  files = sorted((hub_dataset / 'data').glob('train-*'))
  assert [x.name for x in files][1:] == [
    'train-00001-of-00003.parquet',
    'train-00002-of-00003.parquet',
  ]
  for episode_id, path in enumerate(files):
    table = parquet.ParquetFile(path).read_row_group(0)
    assert set(table['episode_id'].to_pylist()) == {episode_id}
    assert len(table) == 71


def check_card(card, folder, *absent):
  """Checks what both kinds of card promise."""
  assert card.data.license == 'apache-2.0'
  links = [x.partition(')')[0] for x in card.text.split('](')[1:]]
  for link in links:
    assert link.startswith('https://') or (folder / link).exists(), link
  for path in absent:
    assert str(path) not in card.content
  assert '{{' not in card.content and '{%' not in card.content


def test_the_card_describes_the_dataset(hub_dataset, data_dir):
  card = huggingface_hub.DatasetCard.load(hub_dataset / 'README.md')
  check_card(card, hub_dataset, data_dir, hub_dataset)
  assert card.data.size_categories == ['n<1K']
  source = prepared_dataset.find(TINY, data_dir)
  assert source.citation in card.text
  for digest in source.content_digests.values():
    assert digest in card.text
  assert '| random_policy | 3 | 1 |' in card.text
  builder = datasets.load_dataset_builder(str(hub_dataset))
  counts = {k: v.num_examples for k, v in builder.info.splits.items()}
  assert counts == {'train': 213, 'validation': 71}
  assert builder.info.features['observation'] == datasets.Image()


@pytest.mark.parametrize(
  ('num_rows', 'name'),
  [
    (999, 'n<1K'),
    (1000, '1K<n<10K'),
    (99_999, '10K<n<100K'),
    (10**6, '1M<n<10M'),
    (10**9, '1B<n<10B'),
  ],
)
def test_sizes_have_the_names_of_the_hub(num_rows, name):
  assert hub_datasets.size_category(num_rows) == name


@pytest.fixture(scope='module')
def score(agent_folder, tmp_path_factory):
  """Returns a function that scores the agent, or a policy, on two tracks."""

  def make(driver=None, tracks='test'):
    folder = tmp_path_factory.mktemp('score')
    track_scores.evaluate(
      driver or drivers.of_agent(agent_folder)[0],
      None if driver else agent_folder,
      tracks,
      2,
      folder,
      lambda jobs: [job() for job in jobs],
      max_steps=4,
    )
    return folder / track_scores.FILE

  return make


@pytest.fixture(scope='module')
def hub_model(agent_folder, score, tmp_path_factory):
  return hub_models.export(
    agent_folder, tmp_path_factory.mktemp('hub'), score()
  )


def test_an_exported_agent_is_loaded_and_drives_alike(hub_model, agent_folder):
  assert agent.digests(hub_model) == agent.digests(agent_folder)
  frames = np.random.default_rng(0).integers(
    0, 256, (2, 64, 64, 3), dtype=np.uint8
  )
  ours, theirs = map(agent.load, (agent_folder, hub_model))
  carry = ours.initial_carry(range(2))
  assert_same(ours(frames, carry)[0], theirs(frames, carry)[0])


def test_the_card_of_an_agent_has_its_score(hub_model, agent_folder, data_dir):
  card = huggingface_hub.ModelCard.load(hub_model / 'README.md')
  check_card(card, hub_model, agent_folder, hub_model, data_dir)
  assert card.data.pipeline_tag == 'reinforcement-learning'
  found = track_scores.of_agent(hub_model / track_scores.FILE, hub_model)
  summary = found.summary
  [result] = card.data.eval_results
  assert (result.dataset_type, result.metric_type) == (
    'CarRacing-v3',
    'mean_reward',
  )
  mean, _, deviation = result.metric_value.partition(' +/- ')
  assert float(mean) == pytest.approx(summary.mean, abs=0.005)
  assert float(deviation) == pytest.approx(
    summary.standard_deviation, abs=0.005
  )
  for sha256 in agent.digests(agent_folder).values():
    assert sha256 in card.text


def test_without_a_score_the_card_claims_none(agent_folder, tmp_path):
  folder = hub_models.export(agent_folder, tmp_path, None)
  card = huggingface_hub.ModelCard.load(folder / 'README.md')
  check_card(card, folder, agent_folder)
  assert card.data.eval_results is None
  assert not (folder / track_scores.FILE).exists()


def test_the_score_of_another_driver_is_refused(agent_folder, score, tmp_path):
  for path, message in (
    (score(drivers.of_policy('uniform')), 'is not the score of the agent in'),
    (score(tracks='selection'), 'is over the selection tracks'),
  ):
    with pytest.raises(track_scores.EvaluationError, match=message):
      hub_models.export(agent_folder, tmp_path, path)
  assert not [*tmp_path.iterdir()]


def test_exports_of_the_same_inputs_are_the_same_bytes(
  hub_dataset, hub_model, agent_folder, data_dir, tmp_path
):
  again = hub_datasets.export(TINY, tmp_path, str(data_dir), 80)
  assert content(again) == content(hub_dataset)
  score_file = hub_model / track_scores.FILE
  for source, file in (agent_folder, score_file), (hub_model, None):
    again = hub_models.export(source, tmp_path / source.name, file)
    assert content(again) == content(hub_model)
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


def test_what_an_interrupted_export_left_is_removed(data_dir, tmp_path):
  left = tmp_path / '.carracing_rollouts-tiny.unfinished' / 'data'
  left.mkdir(parents=True)
  (left / 'train-00007-of-00009.parquet').write_text('half')
  folder = hub_datasets.export(TINY, tmp_path, str(data_dir))
  assert len([*folder.glob('data/*')]) == 2
  assert sorted(x.name for x in tmp_path.iterdir()) == ['.lock', folder.name]
  with pytest.raises(errors.UserError, match='already exists; choose another'):
    hub_datasets.export(TINY, tmp_path, str(data_dir))


def test_the_command_names_its_upload(command, agent_folder, tmp_path):
  done = command(
    'tools.export',
    '--format=model',
    f'--agent={agent_folder}',
    f'--output_dir={tmp_path}',
  )
  assert done.status == 0, done.stderr
  folder = tmp_path / 'carracing-agent'
  assert f'hf upload carracing-agent {folder}\n' in done.stdout
  assert agent.load(folder)


def test_a_missing_package_is_named(tmp_path):
  site = Path(tfds.__file__).parents[1]
  for entry in site.iterdir():
    missing = entry.name.startswith(('datasets', 'huggingface', 'minari'))
    if not missing and not entry.name.endswith('.pth'):
      (tmp_path / entry.name).symlink_to(entry)
  for format_, package in (
    ('minari', 'minari'),
    ('parquet', 'datasets'),
    ('model', 'huggingface_hub'),
  ):
    script = f"""
import runpy, sys
sys.path += {[str(x) for x in (tmp_path, PROJECT, PROJECT / 'datasets')]}
sys.argv = ['export', '--format={format_}']
runpy.run_module('tools.export', run_name='__main__')
"""
    done = subprocess.run(
      [sys.executable, '-I', '-S', '-c', script],
      capture_output=True,
      text=True,
    )
    assert done.returncode == 1
    assert f'needs the package {package}; install it with: pip' in done.stderr
    assert 'Traceback' not in done.stderr
