"""Datasets are listed, and episodes of them become a dataset of their own."""

import json
import shutil

from carracing_data import errors
from carracing_data import json_documents
from carracing_data import metadata
from carracing_data import prepared_dataset
from carracing_data import verification
from carracing_rollouts import action_log
from carracing_rollouts import carracing_rollouts_dataset_builder as builder_lib
from carracing_rollouts import loader
from carracing_rollouts import schema
from conftest import ROLLOUTS
from conftest import VERSION
import numpy as np
import pytest
from tools.lineage import sources
from tools.select_episodes import selection

NAME = 'carracing_rollouts/tiny'


@pytest.fixture
def own(data_dir, tmp_path):
  """A data directory with a copy of carracing_rollouts/tiny."""
  name = f'{NAME}/{VERSION}'
  shutil.copytree(data_dir / name, tmp_path / 'data' / name)
  return tmp_path / 'data'


def episodes_of(name, data_dir):
  return {
    split: list(loader.episodes(name, split=split, data_dir=data_dir))
    for split in schema.SPLITS
  }


def test_simulator_of_other_code_is_named(own):
  folder = own / NAME / VERSION
  content = json.loads((folder / 'metadata.json').read_text())
  content['config']['simulator'] = 'torcs'
  json_documents.write(
    folder / 'metadata.json', json_documents.sealed(content, metadata.SEAL)
  )
  datasets = prepared_dataset.find_all(NAME, own, schema.KIND)
  with pytest.raises(errors.UserError, match="not 'torcs'"):
    selection.select(datasets, selection.Criteria())


def test_selected_episodes_become_a_dataset_that_names_its_source(
  own, command, tmp_path
):
  of_tiny = episodes_of(NAME, own)
  returns = {
    split: [action_log.total(x.reward) for x in episodes]
    for split, episodes in of_tiny.items()
  }
  highest = max(min(returns['train']), returns['validation'][0])
  log = tmp_path / 'log.npz'
  done = command(
    'tools.select_episodes',
    f'--data_dir={own}',
    f'--dataset={NAME}',
    '--drivers=random_pol*',
    f'--max_return={highest}',
    f'--output={log}',
  )
  assert done.status == 0, done.stderr
  keys = {'name': 'selected', 'policy': 'recorded', 'actions': str(log)}
  done = command(
    'tfds',
    'build',
    'datasets/carracing_rollouts',
    f'--data_dir={own}',
    f'--config={json.dumps(keys)}',
  )
  assert done.status == 0, done.stderr
  selected = prepared_dataset.find(
    'carracing_rollouts/selected', own, schema.KIND
  )
  verification.verify(selected)
  assert selected.config['max_steps'] == ROLLOUTS['max_steps']  # Of the log.
  for split, episodes in episodes_of(selected.folder, None).items():
    expected = [
      episode
      for episode, total in zip(of_tiny[split], returns[split])
      if total <= highest
    ]
    for one, other in zip(episodes, expected, strict=True):
      for name, value in vars(other).items():
        np.testing.assert_array_equal(getattr(one, name), value, err_msg=name)
  [tree] = sources.Finder(str(own), []).of(str(selected.folder)).sources
  tiny = prepared_dataset.find(NAME, own)
  assert [x.digest for x in tree.sources] == [tiny.digest, None]
  assert tree.sources[1].name == 'random_policy'
  again = tree.command
  assert f'select_episodes --dataset={tiny.citation} ' in again
  assert f"'--drivers=random_pol*' --max_return={highest} --o" in again
  done = command('tools.datasets', f'--data_dir={own}')
  assert done.status == 0, done.stderr
  for prepared in selected, tiny:
    assert f'| {prepared.citation} |' in done.stdout
  assert done.stdout.count('| random_policy |') == 2


def test_merged_episodes_are_taken_once_with_their_interventions(tmp_path):
  for name in 'one', 'other':
    config = builder_lib.RolloutsConfig(
      name=name, num_episodes=4, max_steps=30, interventions=0.3, seed=7
    )
    builder_lib.Builder(
      data_dir=tmp_path, config=config, num_workers=1
    ).download_and_prepare()
  datasets = prepared_dataset.find_all(
    'carracing_rollouts/one+carracing_rollouts/other', tmp_path, schema.KIND
  )
  log = selection.select(datasets, selection.Criteria(part=':2'))
  assert log.header.selected_from == [x.citation for x in datasets]
  assert log.header.selected_by == '--part=:2'
  action_log.write(tmp_path / 'log.npz', log)
  log = action_log.read(tmp_path / 'log.npz')
  for split, size in ('train', 2), ('validation', 1):
    found = log.of_split(split)
    assert len(found) == size
    episodes = loader.episodes(datasets[1].folder, split=split)
    for (logged, actions), episode in zip(found, episodes):
      np.testing.assert_array_equal(actions, episode.action[:-1])
      imposed = episode.is_intervention[:-1]
      np.testing.assert_array_equal(logged.is_intervention(), imposed)
      assert imposed.any()
