import shutil

from carracing_latents import loader
import jax
import jax.numpy as jnp
from models import agent
from models import mdn_rnn
from models import start_states
from models import weights
from models import world_model
import numpy as np
import pytest
import safetensors.numpy


def test_the_carry_has_watched_the_episode(world):
  states = start_states.load(world.mdn_rnn)
  model = world_model.load(world.vae, world.mdn_rnn)
  episodes = loader.episodes(
    'carracing_latents/tiny', split='train', data_dir=world.data_dir
  )
  assert len(states.mean) > 10
  observe = jax.jit(world_model.observe)
  watched = []
  for episode in episodes:
    state = world_model.initial_state(model, episode['mean'][:1])
    for mean, action in zip(episode['mean'], episode['action']):
      watched.append((mean, *(x[0] for x in state.carry)))
      state = state._replace(z=mean[None])
      state = observe(model, state, action[None], mean[None])
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
  for read in start_states.load, weights.describe:
    with pytest.raises(weights.WeightsError, match='start_states.*again'):
      read(folder)


def test_weights_without_start_states_name_the_way_to_get_them(world, tmp_path):
  m = weights.load(world.mdn_rnn, 'mdn_rnn')
  config = weights.describe(world.mdn_rnn).config
  save = (tmp_path, 'mdn_rnn', config, m.variables['params'], m.training)
  weights.save(*save)
  assert weights.describe(tmp_path).weights_sha256 == m.sha256
  with pytest.raises(weights.WeightsError, match='Delete .* they export M'):
    start_states.load(tmp_path)
  weights.save(*save, b'no states')
  with pytest.raises(
    weights.WeightsError, match='states.safetensors is damaged'
  ):
    start_states.load(tmp_path)


def test_agents_bring_their_start_states(world, tmp_path):
  parts = {'vae': world.vae, 'mdn_rnn': world.mdn_rnn}
  weights.gather(tmp_path / 'agent', parts)
  folder = tmp_path / 'agent' / 'mdn_rnn'
  found = start_states.load(folder)
  jax.tree.map(
    np.testing.assert_array_equal, found, start_states.load(world.mdn_rnn)
  )
  assert len(start_states.load(agent.PRETRAINED / 'mdn_rnn').mean) == 512

  # Of an agent that an earlier version gathered, they are missing.
  m = weights.load(folder, 'mdn_rnn')
  config = weights.describe(folder).config
  weights.save(folder, 'mdn_rnn', config, m.variables['params'], m.training)
  weights.gather(tmp_path / 'agent', parts)
  assert len(start_states.load(folder).mean) == len(found.mean)


def test_thinned_states_are_evenly_taken():
  x = np.arange(1000.0)[:, None]
  states = start_states.StartStates(x, x + 1, x + 2, x + 3)
  for size, expected in (
    (1000, np.arange(1000)),
    (2000, np.arange(1000)),
    (300, np.arange(300) * 1000 // 300),
  ):
    for i, found in enumerate(start_states.thinned(states, size)):
      np.testing.assert_array_equal(found[:, 0], expected + i)


def test_of_many_steps_some_are_drawn(world, monkeypatch):
  m = weights.load(world.mdn_rnn, 'mdn_rnn')
  episodes = loader.episodes(
    'carracing_latents/tiny', split='train', data_dir=world.data_dir
  )
  model = mdn_rnn.MDNRNN(**weights.describe(world.mdn_rnn).config)
  found = []
  # Episodes are watched in parts, the last of which is incomplete.
  for name, number in (None, 0), ('_EPISODES_AT_ONCE', 3), ('_NUM_STATES', 7):
    if name:
      monkeypatch.setattr(start_states, name, number)
    data = start_states.collect(model, m.variables['params'], episodes)
    found.append(safetensors.numpy.load(data))
  whole, in_parts, some = found
  for name, x in whole.items():
    np.testing.assert_allclose(in_parts[name], x, atol=2e-3)
  assert len(some['mean']) == 7 < len(whole['mean'])
  same = (some['mean'][:, None] == whole['mean']).all(-1)
  assert (same.sum(1) == 1).all()


def test_dreams_start_soon_after_a_tile_and_never_at_the_end():
  m = mdn_rnn.MDNRNN(latent_size=2, hidden_size=4)
  zeros = jnp.zeros((1, 1, 2)), jnp.zeros((1, 1, 3)), m.initial_carry(1)
  params = m.init(jax.random.key(0), *zeros)['params']
  episodes = []
  for terminal in False, True:
    size = 300
    mean = np.zeros((size, 2), np.float32)
    mean[:, 0], mean[:, 1] = np.arange(size) / 100, terminal
    reward = np.full(size, -0.1, np.float32)
    reward[[5, 298]] = 3  # The last tile is touched at the last step.
    is_terminal = np.zeros(size, bool)
    is_terminal[-1] = terminal
    episodes.append(
      {
        'mean': mean,
        'logvar': np.zeros_like(mean),
        'action': np.zeros((size, 3), np.float32),
        'reward': reward,
        'is_terminal': is_terminal,
      }
    )
  data = start_states.collect(m, params, episodes)
  means = safetensors.numpy.load(data)['mean'].astype(np.float32)
  expected = [(i / 100, t) for t in (0, 1) for i in range(6, 67)]
  expected.insert(61, (2.99, 0))
  np.testing.assert_allclose(means, expected, atol=2e-3)


@pytest.mark.parametrize(
  ('name', 'number'),
  [
    ('hidden', 3.0),
    ('mean', 6e4),
    ('cell', np.nan),
    ('cell', 1e38),
    ('logvar', np.inf),
    ('logvar', 200.0),
  ],
)
def test_impossible_start_states_are_refused(world, tmp_path, name, number):
  m = weights.load(world.mdn_rnn, 'mdn_rnn')
  arrays = safetensors.numpy.load(m.start_states)
  arrays[name] = arrays[name].astype(np.float32)
  arrays[name][3, 1] = number
  weights.save(
    tmp_path,
    'mdn_rnn',
    weights.describe(world.mdn_rnn).config,
    m.variables['params'],
    m.training,
    safetensors.numpy.save(arrays),
  )
  with pytest.raises(weights.WeightsError, match='does not hold start states'):
    start_states.load(tmp_path)
