import json
from pathlib import Path
import subprocess
import sys

from carracing_data import prepared_dataset
from carracing_rollouts import loader
from conftest import LATENTS_VERSION
from conftest import VERSION
import mlcroissant
import numpy as np
import pytest
import tensorflow_datasets as tfds
from tools.export import rlds_datasets

NAME = 'carracing_rollouts/tiny'


def assert_steps_equal(steps, episode):
  assert len(steps) == len(episode)
  for name, values in vars(episode).items():
    np.testing.assert_array_equal(
      np.stack([step[name] for step in steps]), values
    )


def test_rlds_view_has_the_steps_of_the_episodes(data_dir):
  view = list(rlds_datasets.episodes(NAME, data_dir=data_dir))
  assert [episode['episode_id'] for episode in view] == [0, 1, 2]
  for nested, episode in zip(view, loader.episodes(NAME, data_dir=data_dir)):
    assert_steps_equal(nested['steps'], episode)


def test_rlds_export_is_read_by_plain_tfds(data_dir, command, tmp_path):
  flags = (
    '--format=rlds', f'--dataset={NAME}', f'--data_dir={data_dir}',
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
  for index, episode in enumerate(loader.episodes(NAME, data_dir=data_dir)):
    steps = np.load(tmp_path / f'{index}.npy', allow_pickle=True)
    assert_steps_equal(list(steps), episode)

  exported = tfds.builder_from_directory(
    tmp_path / 'carracing_rlds' / 'tiny' / VERSION
  )
  source = prepared_dataset.find(NAME, data_dir)
  assert dict(exported.info.metadata) == source.metadata.model_dump(
    exclude_unset=True
  )

  again = command('tools.export', *flags)
  assert again.status == 1
  assert 'choose another --output_dir' in again.stderr


@pytest.mark.parametrize('name', [NAME, 'carracing_latents/tiny'])
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
