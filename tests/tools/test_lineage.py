"""Lineage: what weights and datasets were made from, by content."""

import dataclasses
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys

from carracing_data import errors
from carracing_data import json_documents
from carracing_data import prepared_dataset
from carracing_rollouts import action_log
from carracing_rollouts import carracing_rollouts_dataset_builder as builder_lib
from conftest import LATENTS_VERSION
from conftest import PROJECT
from conftest import VERSION
from models import agent
from models import weights
import pytest
from tools.driving import recorded_actions
from tools.lineage import artefacts
from tools.lineage import sources


def digest_of(name, data_dir):
  return json_documents.digest(
    prepared_dataset.find(name, data_dir).content_digests
  )


def test_m_comes_from_latents_v_and_rollouts(world):
  finder = sources.Finder(str(world.data_dir), [world.vae.parents[1]])
  tree = finder.of(str(world.mdn_rnn))
  assert (tree.kind, tree.path) == ('mdn_rnn', str(world.mdn_rnn))
  assert str(tree.command)  # That of the process that trained it.
  [latents] = tree.sources
  assert latents.name.startswith('carracing_latents/tiny:')
  assert latents.digest == digest_of('carracing_latents/tiny', world.data_dir)
  v, rollouts = latents.sources
  assert (v.kind, v.path) == ('vae', str(world.vae))
  assert v.sources == [rollouts]
  assert rollouts.digest == digest_of('carracing_rollouts/tiny', world.data_dir)
  [policy] = rollouts.sources
  assert (policy.name, policy.facts) == ('random_policy', ['seed 1'])
  assert '"max_steps": 70' in str(rollouts.command)
  # A run, and text for people: every artefact once.
  assert finder.of(str(world.mdn_rnn.parent)) == tree
  text = '\n'.join(artefacts.lines(tree))
  assert text.count(str(world.vae)) == 2  # And in the command of the latents.
  assert text.count('see above') == 1
  assert f'V (vae) @{str(v.digest)[:12]}' in text


def test_what_is_not_here_is_said(world, tmp_path):
  finder = sources.Finder(str(tmp_path), [])
  [latents] = finder.of(str(world.mdn_rnn)).sources
  assert latents.path is None and latents.sources == []
  # Another dataset of this name is not taken for it.
  root = tmp_path / 'carracing_latents'
  shutil.copytree(world.data_dir / 'carracing_latents', root)
  shutil.rmtree(root / 'tiny')
  (root / 'straight_ahead').rename(root / 'tiny')
  folder = root / 'tiny' / LATENTS_VERSION
  for name in 'dataset_info.json', 'metadata.json':
    text = (folder / name).read_text().replace('straight_ahead', 'tiny')
    if name == 'metadata.json':
      text = json.dumps(
        json_documents.sealed(json.loads(text), 'metadata_sha256')
      )
    (folder / name).write_text(text)
  finder = sources.Finder(str(tmp_path), [])
  [latents] = finder.of(str(world.mdn_rnn)).sources
  assert latents.path is None
  assert latents.facts == ['another one of this name is here']


def test_the_same_content_is_found_under_a_later_version(world):
  tiny = prepared_dataset.find('carracing_rollouts/tiny', world.data_dir)
  finder = sources.Finder(str(world.data_dir), [])
  earlier = 'carracing_rollouts/tiny:3.0.0'
  found = finder._of_dataset(earlier, tiny.content_digests)
  assert (found.name, found.path) == (tiny.full_name, str(tiny.folder))
  others = dict.fromkeys(tiny.content_digests, 64 * '0')
  assert finder._of_dataset(earlier, others).path is None


def test_a_copy_of_any_name_has_a_lineage(world, tmp_path):
  original = world.data_dir / 'carracing_rollouts' / 'tiny' / VERSION
  copy = shutil.copytree(original, tmp_path / 'copy')
  for folder, told in (original, True), (copy, False):
    tree = sources.Finder(str(tmp_path), []).of(str(folder))
    assert tree.path == str(folder)
    assert ('--data_dir=' in str(tree.command)) == told


def test_a_dataset_of_version_1_is_not_said_to_be_built_again(version_1):
  finder = sources.Finder(str(version_1), [])
  found = finder.of('carracing_rollouts/kept')
  assert found.name.endswith(':1.1.0') and found.command is None
  assert [x.kind for x in found.sources] == ['policy']


@pytest.mark.parametrize(
  ('version', 'simulator', 'interventions', 'same'),
  [
    ('4.0.0', 'sketched', 0.0, True),
    ('3.0.0', 'sketched', 0.0, False),
    ('3.0.0', 'gymnasium', 0.02, True),
    ('2.0.0', 'gymnasium', 0.02, False),
    ('2.0.0', 'gymnasium', 0.0, True),
    ('1.1.0', 'gymnasium', 0.0, False),
  ],
)
def test_only_what_would_be_the_same_is_said_to_be_built_again(
  version, simulator, interventions, same, world
):
  dataset = prepared_dataset.find('carracing_rollouts/tiny', world.data_dir)
  drawn = {'simulator': simulator, 'interventions': interventions}
  metadata = dataset.metadata.model_copy(
    update={
      'name': f'carracing_rollouts/tiny:{version}',
      'config': dataset.config | drawn,
    }
  )
  old = dataclasses.replace(dataset, metadata=metadata)
  found = sources.Finder(str(world.data_dir), [])._found_dataset(old)
  assert (found.command is not None) == same


@pytest.fixture
def driven(agent_folder, tmp_path):
  """Data directory with a dataset that an agent and a policy drove."""
  drivers = tuple(
    action_log.Driver(
      name='agent',
      weights_sha256=action_log.AgentWeights(**agent.digests(agent_folder)),
      noise=noise,
      noise_share=share,
    )
    for noise, share in ((0.0, 1.0), (0.5, 0.25))
  )
  plan = recorded_actions.Plan(drivers, str(agent_folder), 0, 'sketched', 6)
  log = tmp_path / 'log.npz'
  recorded_actions.record(plan, 3, log, lambda jobs: [job() for job in jobs])
  builder_lib.Builder(
    data_dir=tmp_path,
    config=builder_lib.RolloutsConfig(
      name='driven',
      num_episodes=2,
      max_steps=6,
      simulator='sketched',
      actions=str(log),
    ),
  ).download_and_prepare()
  return tmp_path


def test_drivers_of_a_log_are_sources(driven, agent_folder, command):
  done = command(
    'tools.lineage',
    'carracing_rollouts/driven',
    f'--data_dir={driven}',
    f'--search={agent_folder}',
  )
  assert done.status == 0, done.stderr
  assert '└─ C (controller) @' in done.stdout
  finder = sources.Finder(str(driven), [agent_folder])
  policy, log = finder.of('carracing_rollouts/driven').sources
  assert policy.name == 'random_policy'
  assert (log.kind, log.facts) == ('action_log', ['3 episodes'])
  assert str(log.path).endswith('actions.npz')
  [c] = log.sources
  assert (c.kind, c.path) == ('controller', str(agent_folder / 'controller'))
  assert c.digest == agent.digests(agent_folder)['controller']
  assert 'noise 0, 0.5, in spells' in c.facts
  done = command(
    'tools.lineage', 'carracing_rollouts/driven', f'--data_dir={driven}'
  )
  assert 'action log' in done.stdout and 'keep the file' in done.stdout
  # What is known of an agent that is not here.
  for sha256 in agent.digests(agent_folder).values():
    assert f'@{sha256[:12]}' in done.stdout
  folder = driven / 'carracing_rollouts' / 'driven' / VERSION
  (folder / 'actions.npz').write_bytes(b'another')
  done = command(
    'tools.lineage', 'carracing_rollouts/driven', f'--data_dir={driven}'
  )
  assert done.status == 0, done.stderr
  assert 'is not the log that was replayed; restore it' in done.stdout


def test_printed_command_builds_the_same_dataset(driven, tmp_path):
  tree = sources.Finder(str(driven), []).of('carracing_rollouts/driven')
  log = shutil.copy(str(tree.sources[1].path), tmp_path / 'kept.npz')
  shutil.rmtree(str(tree.path))
  programs = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
  subprocess.run(
    str(tree.command).replace(f'{tree.path}/actions.npz', str(log)),
    shell=True,
    check=True,
    cwd=PROJECT,
    env={**os.environ, 'PATH': programs},
  )
  again = sources.Finder(str(driven), []).of('carracing_rollouts/driven')
  assert again.digest == tree.digest


@pytest.mark.parametrize(
  ('training', 'message'),
  [
    ({'step': 'x'}, 'training: step: '),
    ({'validation': {'score': None}}, r'training: validation\.score: '),
    ({'sources': {'vae': 3}}, r'training: sources\.vae: '),
    ({'validation': {'score': '5'}}, r'training: validation\.score: '),
    *(
      ({'sources': {'vae': {'name': 'vae', **source}}}, f'sources.vae.{where}')
      for where, source in (
        ('sha256', {'sha256': {}}),
        ('name', {'name': '<script>', 'sha256': {'train': '0' * 64}}),
        ('name', {'name': 'a`b', 'sha256': {'train': '0' * 64}}),
        ('sha256', {'sha256': {'a|b': '0' * 64}}),
      )
    ),
    ({'rounded_from': ['x']}, 'training: rounded_from: '),
  ],
)
def test_strange_provenance_is_named(training, message, world, tmp_path):
  params = weights.load(world.vae, 'vae').variables['params']
  folder = tmp_path / 'weights'
  weights.save(folder, 'vae', {'latent_size': 32}, params, training)
  with pytest.raises(errors.DocumentError, match=message):
    sources.Finder(None, []).of(str(folder))


def test_control_characters_do_not_reach_the_terminal(world, tmp_path):
  params = weights.load(world.vae, 'vae').variables['params']
  folder, training = tmp_path / 'weights', {'command': 'a\n\x1b[31mb'}
  weights.save(folder, 'vae', {'latent_size': 32}, params, training)
  lines = [*artefacts.lines(sources.Finder(None, []).of(str(folder)))]
  assert all(line.isprintable() for line in lines)
  assert any('again, with its code: a' in line for line in lines)


def test_weights_that_name_themselves_end(world, tmp_path):
  loaded = weights.load(world.vae, 'vae')
  source = {'name': 'vae', 'sha256': {'weights': loaded.sha256}}
  folder = tmp_path / 'weights'
  params = loaded.variables['params']
  training = {'sources': {'vae': source}}
  weights.save(folder, 'vae', {'latent_size': 32}, params, training)
  tree = sources.Finder(None, [tmp_path]).of(str(folder))
  assert tree.path == str(folder)
  assert len(list(artefacts.lines(tree))) > 1


def test_agent_names_its_world_model(agent_folder):
  tree = sources.Finder(None, [agent_folder]).of(str(agent_folder))
  assert [(x.kind, x.path) for x in tree.sources] == [
    (name, str(agent_folder / name)) for name in ('mdn_rnn', 'vae')
  ]


def test_changes_that_were_not_committed_are_told(world, tmp_path):
  params = weights.load(world.vae, 'vae').variables['params']
  for revision, told in (
    ('1' * 40 + '-dirty', '1' * 10 + '-dirty'),
    ('2' * 40, '2' * 10),
  ):
    folder = tmp_path / revision
    training = {'git_revision': revision}
    weights.save(folder, 'vae', {'latent_size': 32}, params, training)
    assert sources.Finder(None, []).of(str(folder)).facts == [f'code {told}']


def test_sources_of_an_agent_lie_anywhere_in_its_pipeline(
  world, agent_folder, command, tmp_path
):
  """A pipeline of two rounds: V and M of the first one, C of the second."""
  for run in world.vae.parent, world.mdn_rnn.parent:
    shutil.copytree(run, tmp_path / 'out' / run.name)
  (tmp_path / 'out' / 'pipeline.json').write_text('{}')
  (tmp_path / 'out' / 'data').symlink_to(world.data_dir)
  controller = tmp_path / 'out' / 'round_1' / 'controller'
  c = weights.describe(agent_folder / 'controller')
  run = json.loads((world.vae.parent / 'run.json').read_text())
  run['sources'] = c.training['sources']
  shutil.copytree(agent_folder / 'controller', controller / 'weights')
  (controller / 'run.json').write_text(json.dumps(run))
  printed = [
    command('tools.lineage', name, cwd=tmp_path).stdout
    for name in (
      'out',
      'out/round_1/controller',
      'out/round_1/controller/weights',
    )
  ]
  for said in printed:
    assert said.startswith(f'C (controller) @{c.weights_sha256[:12]}')
    for folder in (
      'out/round_1/controller/weights',
      'out/mdn_rnn/weights',
      'out/vae/weights',
      'out/data/carracing_rollouts/tiny/',
    ):
      assert folder in said, said
