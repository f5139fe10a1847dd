import shutil

import jax
from models import agent
from models import start_states
from models import weights
import numpy as np
import pytest
from tools.lineage import sources


def publish(command, folder, output_dir):
  return command(
    'tools.publish', f'--agent={folder}', f'--output_dir={output_dir}'
  )


@pytest.fixture
def published(agent_folder, command, tmp_path):
  folder = tmp_path / 'published'
  done = publish(command, agent_folder, folder)
  assert done.status == 0, done.stderr
  digests = agent.digests(folder)
  assert all(sha256 in done.stdout for sha256 in digests.values())
  assert publish(command, agent_folder, folder).status == 0
  assert agent.digests(folder) == digests
  return folder


def test_a_published_agent_drives_as_before(published, agent_folder):
  frames = np.random.default_rng(0).integers(
    0, 256, (4, 64, 64, 3), dtype=np.uint8
  )
  actions = []
  for folder in agent_folder, published:
    driver = agent.load(folder)
    action, _ = driver(frames, driver.initial_carry(range(4)))
    actions.append(action)
  assert np.ptp(actions[0][:, :2], axis=0).all()  # They depend on the frame.
  np.testing.assert_allclose(*actions, atol=0.02)
  # C stays as it is, V and M are rounded.
  before, after = map(agent.digests, (agent_folder, published))
  assert [name for name in agent.PARTS if before[name] == after[name]] == [
    'controller'
  ]
  v, rounded = (
    weights.load(x / 'vae', 'vae').variables for x in (agent_folder, published)
  )
  jax.tree.map(
    lambda x, half: np.testing.assert_array_equal(np.float16(x), half),
    v,
    rounded,
  )


def test_published_weights_stand_for_their_originals(
  published, agent_folder, world, tmp_path
):
  tree = sources.Finder(str(world.data_dir), [published]).of(published)
  m, v = tree.sources
  digests, originals = map(agent.digests, (published, agent_folder))
  for node, part in (m, 'mdn_rnn'), (v, 'vae'):
    assert (node.digest, node.command) == (digests[part], None)
    assert 'rounded to float16' in node.facts
    [original] = node.sources
    assert (original.digest, original.path) == (originals[part], None)
    assert original.command
  # The V of its latents is the original one, which is not here.
  [original_m] = m.sources
  [latents] = [x for x in original_m.sources if x.kind == 'carracing_latents']
  assert latents.sources[0].path == str(published / 'vae')
  assert latents.command is None  # The rounded V encodes differently.


def test_published_parts_name_one_another(published, command, tmp_path):
  digests = agent.digests(published)
  for part, others in ('mdn_rnn', ['vae']), ('controller', ['vae', 'mdn_rnn']):
    training = weights.describe(published / part).training
    for other in others:
      assert training[f'{other}_sha256'] == digests[other]
  # Published once more, they still name the weights that were trained.
  again = tmp_path / 'again'
  done = publish(command, published, again)
  assert done.status == 0, done.stderr
  assert agent.digests(again) == digests
  for part in 'vae', 'mdn_rnn':
    first, second = (
      weights.describe(x / part).training for x in (published, again)
    )
    assert first['rounded_from'] == second['rounded_from'] != digests[part]


def test_runs_are_not_replaced(agent_folder, command, tmp_path):
  run = tmp_path / 'runs' / 'vae'
  (run / 'checkpoints').mkdir(parents=True)
  done = publish(command, agent_folder, run.parent)
  assert done.status == 1
  assert 'vae holds checkpoints' in done.stderr
  assert [*run.parent.iterdir()] == [run]

  # Parts that are links to the output.
  shutil.copytree(agent_folder, tmp_path / 'store')
  (tmp_path / 'agent').mkdir()
  for part in agent.PARTS:
    (tmp_path / 'agent' / part).symlink_to(tmp_path / 'store' / part)
  before = agent.digests(tmp_path / 'store')
  done = publish(command, tmp_path / 'agent', tmp_path / 'store')
  assert done.status == 1
  assert 'vae is a part of the agent' in done.stderr
  assert agent.digests(tmp_path / 'store') == before


@pytest.mark.parametrize('large', ['vae', 'mdn_rnn'])
def test_numbers_beyond_float16_are_refused(
  large, agent_folder, tmp_path, command
):
  digests = {}
  for part in agent.PARTS:
    loaded = weights.load(agent_folder / part, part)
    params, training = loaded.variables['params'], {**loaded.training}
    if part == large:
      params = jax.tree.map(lambda x: x + 1e5, params)
    training |= {k: v for k, v in digests.items() if k in training}
    digests[f'{part}_sha256'] = weights.save(
      tmp_path / 'agent' / part,
      part,
      weights.describe(agent_folder / part).config,
      params,
      training,
    )
  done = publish(command, tmp_path / 'agent', tmp_path / 'published')
  assert done.status == 1
  assert f'{large} has numbers beyond float16' in done.stderr
  assert not list((tmp_path / 'published').iterdir())


def replace_start_states(folder, states):
  """Saves M again, with other start states."""
  m = weights.load(folder, 'mdn_rnn')
  weights.save(
    folder,
    'mdn_rnn',
    weights.describe(folder).config,
    m.variables['params'],
    m.training,
    start_states.to_bytes(states),
  )


def test_foreign_start_states_leave_nothing_behind(
  agent_folder, command, tmp_path
):
  source = shutil.copytree(agent_folder, tmp_path / 'agent')
  states = start_states.load(source / 'mdn_rnn')
  replace_start_states(
    source / 'mdn_rnn', states._replace(mean=states.mean[:, :-1])
  )
  done = publish(command, source, tmp_path / 'published')
  assert done.status == 1
  assert 'does not hold start states of this M; copy it' in done.stderr
  assert not list((tmp_path / 'published').iterdir())


def test_of_many_start_states_512_are_published(
  agent_folder, command, tmp_path
):
  source = shutil.copytree(agent_folder, tmp_path / 'agent')
  states = start_states.load(source / 'mdn_rnn')
  many = start_states.StartStates(*(np.repeat(x, 600, axis=0) for x in states))
  replace_start_states(source / 'mdn_rnn', many)
  done = publish(command, source, tmp_path / 'published')
  assert done.status == 0, done.stderr
  found = start_states.load(tmp_path / 'published' / 'mdn_rnn')
  assert len(found.mean) == 512
