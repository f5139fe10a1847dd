import subprocess
import sys

from carracing_data import errors
from carracing_rollouts import carracing_rollouts_dataset_builder as builder_lib
from carracing_rollouts import loader
from carracing_rollouts import rollout
from conftest import PROJECT
from conftest import ROLLOUTS
from conftest import VERSION
import numpy as np
import pytest

DATASETS = PROJECT / 'datasets'


def build(data_dir, **config):
  builder_lib.Builder(
    data_dir=data_dir,
    config=builder_lib.RolloutsConfig(name='tiny', **{**ROLLOUTS, **config}),
  ).download_and_prepare()


def test_dataset_holds_the_generated_episodes(data_dir):
  for split, size in ('train', 3), ('validation', 1):
    episodes = loader.episodes(
      'carracing_rollouts/tiny', split=split, data_dir=data_dir
    )
    assert len(episodes) == size
    for episode_id, episode in enumerate(episodes):
      expected = rollout.generate(
        split,
        episode_id,
        seed=ROLLOUTS['seed'],
        policy='random_policy',
        simulator='gymnasium',
        max_steps=ROLLOUTS['max_steps'],
      )
      np.testing.assert_array_equal(episode.observation, expected.observation)
      np.testing.assert_array_equal(episode.action, expected.action)
      np.testing.assert_array_equal(episode.reward, expected.reward)


@pytest.mark.parametrize(
  ('folder', 'dataset'),
  [
    (PROJECT, 'datasets/carracing_rollouts'),
    (DATASETS, 'carracing_rollouts'),
  ],
)
def test_tfds_command_builds_array_record(folder, dataset, command, tmp_path):
  done = command(
    'tfds',
    'build',
    dataset,
    f'--data_dir={tmp_path}',
    '--config={"name": "two", "num_episodes": 2, "max_steps": 5}',
    cwd=folder,
  )
  assert done.status == 0, done.stderr
  assert 'carracing_rollouts 2/2 · ' in done.stderr  # Both shards.
  folder = tmp_path / 'carracing_rollouts' / 'two' / VERSION
  assert sorted(p.name for p in folder.glob('*.array_record-*')) == [
    'carracing_rollouts-train.array_record-00000-of-00001',
    'carracing_rollouts-validation.array_record-00000-of-00001',
  ]


def test_tfds_command_stops_where_a_callback_swallows_the_interrupt():
  program = """
import gc, signal, sys
sys.argv = ['tfds', 'build']
from carracing_data import tfds_command
tfds_command.adapt()
gc.callbacks.append(lambda *_: int('x'))
gc.collect()
print('went on', flush=True)
gc.callbacks[-1] = lambda *_: signal.raise_signal(signal.SIGINT)
gc.collect()
print('went on again')
"""
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True
  )
  assert done.returncode == 130
  assert done.stderr.splitlines()[-1] == (
    'Interrupted; run the same command again to continue.'
  )
  assert 'KeyboardInterrupt' not in done.stderr
  assert done.stdout == 'went on\n'


def test_a_name_taken_by_another_config_is_refused(data_dir):
  with pytest.raises(errors.DatasetError, match="'seed': 2.*--overwrite"):
    build(data_dir, seed=2)


def test_other_file_formats_are_refused(tmp_path):
  with pytest.raises(errors.DatasetError, match='array_record only'):
    builder_lib.Builder(data_dir=tmp_path, file_format='tfrecord')
