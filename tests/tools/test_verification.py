import json
from pathlib import Path
import shutil
import subprocess
import sys

from carracing_data import errors
from carracing_data import json_documents
from carracing_data import metadata
from carracing_data import prepared_dataset
from carracing_data import rlds_steps
from carracing_data import shards
from carracing_data import verification
from carracing_latents import schema as latents_schema
from carracing_rollouts import carracing_rollouts_dataset_builder as builder_lib
from carracing_rollouts import loader
from carracing_rollouts import rollout
from carracing_rollouts import schema
from conftest import ROLLOUTS
from conftest import VERSION
import numpy as np
import pytest
from tools.verify import latents_comparison

MODULES = {
  'carracing_latents': latents_schema,
  'carracing_rollouts': schema,
}
NEXT_MAJOR = f'{int(VERSION.partition(".")[0]) + 1}.0.0'
NAME = 'carracing_rollouts/tiny'
SHARD = 'carracing_rollouts-train.array_record-00001-of-00003'


def verify(folder):
  kinds = [module.KIND for module in MODULES.values()]
  verification.verify(prepared_dataset.find(str(folder), None, *kinds))


def problems(module, records):
  return list(module.broken_promises(records, rlds_steps.Totals()))


@pytest.fixture
def copy(data_dir, tmp_path):
  """A copy of carracing_rollouts/tiny to damage; 3 records per shard."""
  source = prepared_dataset.find(NAME, data_dir).folder
  return Path(shutil.copytree(source, tmp_path / '1.0.0'))


def flip(path, position):
  content = bytearray(path.read_bytes())
  content[position] ^= 1
  path.write_bytes(content)


def test_intact_datasets_verify(world):
  for name in NAME, 'carracing_latents/tiny':
    verify(prepared_dataset.find(name, world.data_dir).folder)


def test_verify_works_with_closed_streams(data_dir):
  command = (
    f'{sys.executable} -m tools.verify --dataset=carracing_rollouts/tiny'
    f' --data_dir={data_dir} >&- 2>&-'
  )
  assert subprocess.run(['bash', '-c', command]).returncode == 0


def test_flipped_byte_is_found_at_its_record(copy):
  flip(copy / SHARD, 1000)
  with pytest.raises(errors.DatasetError, match=f'train record 3, in {SHARD}'):
    verify(copy)


def test_reading_a_damaged_record_names_it_and_the_next_command(copy):
  flip(copy / SHARD, 1000)
  with pytest.raises(errors.DatasetError, match=r'record 3 .*tools\.verify'):
    loader.episodes(str(copy))[1]


def test_an_episode_that_breaks_a_promise_is_not_read(copy):
  prepared = prepared_dataset.find(str(copy), None, schema.KIND)
  shard = copy / SHARD.replace('00001', '00000')
  segments = [prepared.records('train')[i] for i in range(3)]
  segments[0]['reward'] = segments[0]['reward'].copy()
  segments[0]['reward'][3] = np.nan

  def write(writer):
    for segment in segments:
      writer(segment)
    return []

  shards._write(shard, write, prepared.features)
  with pytest.raises(errors.DatasetError, match='reward is not finite at step'):
    loader.episodes(str(copy))[0]


def test_flipped_byte_of_no_record_is_found(copy):
  flip(copy / SHARD, -10)
  with pytest.raises(errors.DatasetError, match='a byte between records'):
    verify(copy)


def test_truncated_shard_is_found(copy):
  content = (copy / SHARD).read_bytes()
  (copy / SHARD).write_bytes(content[:-1000])
  with pytest.raises(errors.DatasetError, match=r'train records 3\.\.5.*trunc'):
    verify(copy)


def test_missing_shard_is_found(copy):
  (copy / SHARD).unlink()
  with pytest.raises(errors.DatasetError, match=f'{SHARD} is missing'):
    verify(copy)


def test_shard_of_another_version_is_found(copy, tmp_path):
  config = builder_lib.RolloutsConfig(name='tiny', **{**ROLLOUTS, 'seed': 2})
  other = builder_lib.Builder(data_dir=tmp_path, config=config)
  other.download_and_prepare()
  shutil.copy(Path(other.data_dir) / SHARD, copy / SHARD)
  with pytest.raises(errors.DatasetError, match='not the one that was written'):
    verify(copy)
  difference = verification.compare(
    prepared_dataset.find(str(copy), None, schema.KIND),
    prepared_dataset.find(other.data_dir, None, schema.KIND),
  )
  assert difference == 'train record 0 differs in action, observation, reward'


def seal(content):
  content.update(json_documents.sealed(content, metadata.SEAL))


def test_version_without_a_feature_is_read_and_lacks_it(data_dir):
  speed = metadata.Feature('float32', (schema.SEGMENT_STEPS,), since='99.0.0')
  kind = schema.KIND._replace(features={**schema.KIND.features, 'speed': speed})
  dataset = prepared_dataset.find(NAME, data_dir, kind)
  verification.verify(dataset)
  assert dataset.records('train')[0].keys() == schema.KIND.features.keys()
  with pytest.raises(
    errors.DatasetError, match=f'^{NAME}:{VERSION} has no speed; build it again'
  ):
    dataset.records('train', ['reward', 'speed'])


def test_first_version_is_read(version_1, tmp_path):
  """It counted no terminated episodes, and its folder alone had its name."""

  def change(content):
    del content['name']
    for split in content['splits'].values():
      del split['num_terminated'], split['shard_lengths']
    seal(content)

  copy = version_1 / 'carracing_rollouts' / 'kept' / '1.1.0'
  edit(copy / 'metadata.json', change)
  edit(copy / 'dataset_info.json', lambda c: c.update(version='1.0.0'))
  other = shutil.copytree(copy, tmp_path / 'other')
  with pytest.raises(errors.DatasetError, match='move it to DATASET/CONFIG/VE'):
    prepared_dataset.find(str(other))
  copy.rename(copy.with_name('1.0.0'))
  name = 'carracing_rollouts/kept'
  dataset = prepared_dataset.find(name, version_1, schema.KIND)
  assert dataset.full_name == f'{name}:1.0.0'
  assert dataset.splits['train'].num_terminated is None
  verification.verify(dataset)
  assert len(loader.episodes(name, data_dir=version_1)) == 1


def edit(path, change):
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


@pytest.mark.parametrize('key', ['return_mean', 'return_max', 'num_terminated'])
def test_statistics_are_those_of_the_records(key, copy):
  def change(content):
    content['splits']['train'][key] += 1
    seal(content)

  edit(copy / 'metadata.json', change)
  with pytest.raises(
    errors.DatasetError, match=f'{key} of train does not match'
  ):
    verify(copy)


def test_edited_metadata_is_found(copy):
  edit(copy / 'metadata.json', lambda c: c['config'].update(seed=2))
  with pytest.raises(errors.DatasetError, match='metadata.json was edited'):
    verify(copy)


def test_edited_shard_lengths_are_found(copy):
  def change(content):
    assert content['splits'][0]['shardLengths'] == ['3', '3', '3']
    content['splits'][0]['shardLengths'] = ['2', '4', '3']

  edit(copy / 'dataset_info.json', change)
  with pytest.raises(errors.DatasetError, match='dataset_info.json was edited'):
    verify(copy)


def test_counts_that_cannot_be_are_found_without_reading(copy):
  def change(content):
    content['splits']['train']['episode_steps'] = [500, 71, 71]
    seal(content)

  edit(copy / 'metadata.json', change)
  with pytest.raises(errors.DatasetError, match='counts of train contradict'):
    prepared_dataset.find(str(copy), None, schema.KIND)


@pytest.mark.parametrize(
  'change',
  [
    lambda c: c['splits'].pop('validation'),
    lambda c: c['splits'].update(test=c['splits']['train']),
    lambda c: c['splits']['train'].pop('num_terminated'),
    lambda c: c['splits']['train'].pop('shard_lengths'),
  ],
)
def test_metadata_without_what_its_version_has_are_refused(change, copy):
  edit(copy / 'metadata.json', lambda c: (change(c), seal(c)))
  with pytest.raises(errors.DatasetError, match='splits|counts of train'):
    prepared_dataset.find(str(copy), None, schema.KIND)


@pytest.mark.parametrize('version', ['0.0.0', NEXT_MAJOR, '9999.0.0'])
def test_version_that_is_not_known_is_refused(version, copy):
  name = f'{NAME}:{version}'
  edit(copy / 'metadata.json', lambda c: (c.update(name=name), seal(c)))
  with pytest.raises(errors.DatasetError, match=f'{version}, which this code'):
    prepared_dataset.find(str(copy), None, schema.KIND)


@pytest.mark.parametrize('steps', [[72, 70, 71], [96, 65, 65]])
def test_lengths_of_the_metadata_are_those_of_the_records(steps, copy):
  def change(content):
    train = content['splits']['train']
    train.update(episode_steps=steps, num_steps=sum(steps))
    seal(content)

  edit(copy / 'metadata.json', change)
  with pytest.raises(errors.DatasetError, match='mixed up'):
    [*loader.episodes(str(copy))]
  with pytest.raises(errors.DatasetError, match='mixed up'):
    loader.spread_frames(str(copy), split='train', count=1000)


def test_latents_are_those_of_their_rollouts(world, tmp_path):
  names = (
    ('carracing_rollouts/tiny', schema),
    (
      'carracing_latents/tiny',
      latents_schema,
    ),
  )
  rollouts, latents = (
    prepared_dataset.find(name, world.data_dir, module.KIND)
    for name, module in names
  )
  assert not list(latents_comparison.differences(latents, rollouts))
  other = builder_lib.Builder(
    data_dir=tmp_path,
    config=builder_lib.RolloutsConfig(name='tiny', **{**ROLLOUTS, 'seed': 2}),
  )
  other.download_and_prepare()
  differences = latents_comparison.differences(
    latents, prepared_dataset.find(other.data_dir)
  )
  assert next(differences) == 'action of train episode 0 differs'


def test_code_that_foreign_metadata_name_is_not_run(
  copy, tmp_path, monkeypatch
):
  (tmp_path / 'malice.py').write_text('raise SystemExit("malice was run")')
  monkeypatch.syspath_prepend(tmp_path)

  def change(content):
    features = content['featuresDict']['features']
    features['action']['pythonClassName'] = 'malice.Feature'

  edit(copy / 'features.json', change)
  with pytest.raises(errors.DatasetError, match='features.json was edited'):
    verify(copy)


def test_compare_finds_no_difference_between_equal_datasets(copy, data_dir):
  first, second = (
    prepared_dataset.find(str(copy), None, schema.KIND),
    prepared_dataset.find(NAME, data_dir, schema.KIND),
  )
  assert verification.compare(first, second) is None


@pytest.fixture(scope='module')
def records():
  episodes = [
    rollout.generate(
      'train', i, seed=0, policy='uniform', simulator='gymnasium', max_steps=40
    )
    for i in range(2)
  ]
  return [r for i, e in enumerate(episodes) for r in schema.cut(i, e)]


def test_generated_records_keep_their_promises(records):
  assert not problems(schema, records)


@pytest.mark.parametrize(
  ('index', 'name', 'value', 'problem'),
  [
    (1, 'episode_id', 4, 'belongs to episode 4, not to 0'),
    (1, 'first_step', 64, 'starts at step 64, not at 32'),
    (0, 'length', 0, 'its length is 0'),
    (0, 'length', 20, 'short though the episode goes on'),
    (1, 'reward', np.full(32, 1, np.float32), 'padding of reward'),
    (0, 'reward', np.full(32, np.nan, np.float32), 'not finite at step 0'),
    (0, 'action', np.full((32, 3), 2, np.float32), 'out of range at step 0'),
    (0, 'is_first', np.zeros(32, bool), 'is_first'),
    (0, 'is_terminal', np.ones(32, bool), 'is_terminal is set before'),
    (0, 'discount', np.zeros(32, np.float32), 'does not agree'),
  ],
)
def test_broken_promise_is_named(records, index, name, value, problem):
  broken = [dict(record) for record in records]
  broken[index][name] = value
  assert problem in ' '.join(problems(schema, broken))


def test_unfinished_episode_is_named(records):
  assert problems(schema, records[:1]) == ['the last episode has no last step']


def test_latents_promise_the_same(world):
  source = prepared_dataset.find(
    'carracing_latents/tiny', world.data_dir, latents_schema.KIND
  )
  [record] = source.records('validation')
  assert not problems(latents_schema, [record])
  logvar = record['logvar'].copy()
  logvar[3] = np.inf
  record = {**record, 'logvar': logvar}
  assert problems(latents_schema, [record]) == [
    'logvar is not finite at step 3'
  ]
  assert problems(latents_schema, [{**record, 'episode_id': 1}])
