import shutil

from carracing_latents import loader
import jax
from models import agent
from models import start_states
from models import weights
from models import world_model
import numpy as np
import pytest


def test_the_carry_has_watched_the_episode(world):
  states = start_states.load(world.mdn_rnn)
  model = world_model.load(world.vae, world.mdn_rnn)
  episodes = loader.episodes(
    'carracing_latents/tiny', split='train', data_dir=world.data_dir
  )
  assert len(states.mean) > 10
  watched = []
  for episode in episodes:
    state = world_model.initial_state(model, episode['mean'][:1])
    for mean, action in zip(episode['mean'], episode['action']):
      watched.append((mean, *(x[0] for x in state.carry)))
      state = state._replace(z=mean[None])
      state = world_model.observe(model, state, action[None], mean[None])
  means, cells, hiddens = map(np.stack, zip(*watched))
  for mean, _, cell, hidden in zip(*states):
    [same] = np.nonzero((np.float16(means) == mean).all(1))
    differences = [
      np.abs(found[same] - stored).max(1)
      for found, stored in ((cells, cell), (hiddens, hidden))
    ]
    assert np.max(differences, axis=0).min() < 5e-3


def test_drawn_states_are_samples_of_posteriors(world):
  states = start_states.load(world.mdn_rnn)
  drawn = start_states.draw(states, 2000, jax.random.key(0))
  assert drawn.z.shape == (2000, 32) and drawn.carry[1].shape == (2000, 256)
  indices = [
    np.nonzero((states.hidden == hidden).all(1))[0][0]
    for hidden in np.asarray(drawn.carry[1])
  ]
  assert len(set(indices)) > 10
  deviation = np.exp(states.logvar[indices] / 2)
  noise = (np.asarray(drawn.z) - states.mean[indices]) / deviation
  assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03


@pytest.mark.parametrize('damage', ['missing', 'flipped'])
def test_damage_is_found(world, tmp_path, damage):
  folder = shutil.copytree(world.mdn_rnn, tmp_path / 'weights')
  path = folder / weights.START_STATES
  content = bytearray(path.read_bytes())
  content[-5] ^= 1
  path.unlink()
  if damage == 'flipped':
    path.write_bytes(content)
  for read in start_states.load, weights.verify:
    with pytest.raises(weights.WeightsError, match='start_states.*again'):
      read(folder)


def test_weights_without_start_states_name_the_way_to_get_them(world, tmp_path):
  m = weights.load(world.mdn_rnn, 'mdn_rnn')
  config = weights.describe(world.mdn_rnn).config
  save = (tmp_path, 'mdn_rnn', config, m.variables['params'], m.training)
  weights.save(*save)
  assert weights.verify(tmp_path) == m.sha256
  with pytest.raises(weights.WeightsError, match='Delete .* exports them'):
    start_states.load(tmp_path)
  weights.save(*save, b'no states')
  with pytest.raises(weights.WeightsError, match='does not hold start states'):
    start_states.load(tmp_path)


def test_agents_bring_their_start_states(world, tmp_path):
  parts = {'vae': world.vae, 'mdn_rnn': world.mdn_rnn}
  weights.gather(tmp_path / 'agent', parts)
  found = start_states.load(tmp_path / 'agent' / 'mdn_rnn')
  jax.tree.map(
    np.testing.assert_array_equal, found, start_states.load(world.mdn_rnn)
  )
  assert len(start_states.load(agent.PRETRAINED / 'mdn_rnn').mean) == 512
