import shutil

from carracing_data import errors
import conftest
import jax
from models import agent
from models import weights
from models import world_model
import numpy as np
import pytest


@pytest.fixture(scope='module')
def frames():
  """Observations [T, B, 64, 64, 3]; the tiny V only needs varied ones."""
  shape = (3, 8, 64, 64, 3)
  return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def drive(driver, frames):
  """Returns actions [T, B, 3] and the last carry."""
  carry = driver.initial_carry(range(frames.shape[1]))
  actions = []
  for observation in frames:
    action, carry = driver(observation, carry)
    actions.append(action)
  return np.stack(actions), carry


def test_actions_are_those_of_the_paper(agent_folder, frames):
  driver = agent.load(agent_folder)
  actions, _ = drive(driver, frames)

  model = world_model.load(agent_folder / 'vae', agent_folder / 'mdn_rnn')
  linear = weights.load(agent_folder / 'controller', 'controller').variables
  kernel, bias = (linear['params']['linear'][x] for x in ('kernel', 'bias'))
  carry = model.m.initial_carry(8)
  encode, predict = jax.jit(world_model.encode), jax.jit(world_model.predict)
  for observation, action in zip(frames, actions):
    z = np.asarray(encode(model, observation).mean)
    # The action depends on h before M sees this z.
    x = np.tanh(np.concatenate([z, carry[1]], -1) @ kernel + bias)
    expected = [x[:, 0], (x[:, 1] + 1) / 2, np.maximum(x[:, 2], 0)]
    np.testing.assert_allclose(action, np.stack(expected, -1), atol=1e-4)
    _, carry = predict(model, world_model.State(z, carry), action)
  assert actions.dtype == np.float32
  assert np.ptp(actions[-1, :, :2], axis=0).all()  # They depend on the frame.


def test_m_sees_what_is_done(agent_folder, frames):
  driver = agent.load(agent_folder)
  carry = driver.initial_carry(range(8))
  clean, _ = driver(frames[0], carry)
  noise = np.random.default_rng(0).normal(0, 0.3, (8, 3))
  imposed = np.full((8, 3), np.nan, np.float32)
  imposed[5] = 0.5, 0.25, 0.125
  noisy, seen = driver(frames[0], carry, imposed, lambda x: x + noise)
  expected = np.clip(clean + noise, [-1, 0, 0], [1, 1, 1])
  expected[5] = imposed[5]
  np.testing.assert_allclose(noisy, expected, atol=1e-6)
  z = world_model.encode(driver.model, frames[0]).mean
  state = world_model.State(z, carry)
  _, (cell, hidden) = world_model.predict(driver.model, state, noisy)
  np.testing.assert_allclose(seen[0], cell, atol=1e-5)
  np.testing.assert_allclose(seen[1], hidden, atol=1e-5)


def test_actions_do_not_depend_on_the_batch(agent_folder, frames):
  driver = agent.load(agent_folder)
  actions, (cell, hidden) = drive(driver, frames)
  # Batches of more than 32 are cut, and others padded to a power of two.
  for order in [5], [5, 0], [5, 0, 7], [*range(8)] * 3, [7, *range(8)] * 8:
    found, carry = drive(driver, frames[:, order])
    np.testing.assert_array_equal(found, actions[:, order])
    np.testing.assert_array_equal(carry[0], cell[order])
    np.testing.assert_array_equal(carry[1], hidden[order])


def test_a_controller_of_z_alone_ignores_h(world, frames, tmp_path):
  conftest.save_agent(tmp_path / 'agent', world, hidden_size=0)
  driver = agent.load(tmp_path / 'agent')
  carry = driver.initial_carry(range(8))
  action, _ = driver(frames[0], carry)
  other, _ = driver(frames[0], jax.tree.map(lambda x: x + 1, carry))
  np.testing.assert_array_equal(action, other)
  assert np.ptp(action[:, :2], axis=0).all()


@pytest.mark.parametrize('hidden_size', [128, 512])
def test_a_controller_of_another_size_is_refused(hidden_size, world, tmp_path):
  conftest.save_agent(tmp_path / 'agent', world, hidden_size=hidden_size)
  with pytest.raises(weights.WeightsError, match='with another mdn_rnn than'):
    agent.load(tmp_path / 'agent')


def test_actions_of_other_episodes_are_refused(agent_folder, frames):
  driver = agent.load(agent_folder)
  carry = driver.initial_carry(range(3))
  imposed = np.full((3, 3), np.nan, np.float32)
  for given in (
    {'change': lambda action: action[:1], 'imposed': imposed},
    {'imposed': imposed[:1]},
  ):
    with pytest.raises(ValueError, match=r'actions are \[1, 3\], not \[3, 3\]'):
      driver(frames[0, :3], carry, **given)


@pytest.mark.parametrize('part', agent.PARTS)
def test_a_missing_part_is_named(part, agent_folder, tmp_path):
  folder = shutil.copytree(agent_folder, tmp_path / 'agent')
  shutil.rmtree(folder / part)
  with pytest.raises(weights.WeightsError, match=f'no exported .*agent/{part}'):
    agent.load(folder)


def test_parts_of_different_agents_are_refused(agent_folder, tmp_path):
  folder = shutil.copytree(agent_folder, tmp_path / 'agent')
  old = weights.load(folder / 'mdn_rnn', 'mdn_rnn')
  params = jax.tree.map(lambda x: x + 1, old.variables['params'])
  config = {
    name: getattr(old.model, name)
    for name in (
      'latent_size',
      'hidden_size',
      'num_mixtures',
      'per_dimension',
      'predict_outcomes',
    )
  }
  weights.save(folder / 'mdn_rnn', 'mdn_rnn', config, params, old.training)
  with pytest.raises(weights.WeightsError, match='with another mdn_rnn than'):
    agent.load(folder)


@pytest.mark.parametrize(
  ('shape', 'dtype', 'cars', 'message'),
  [
    ((2, 64, 64, 3), np.float32, 2, r'float32\[2, 64, 64, 3\], not uint8'),
    ((64, 64, 3), np.uint8, 64, r'are uint8\[64, 64, 3\], not uint8'),
    ((2, 64, 64, 3), np.uint8, 3, r'carry is .* not twice float32\[2, 256\]'),
  ],
)
def test_wrong_observations(agent_folder, shape, dtype, cars, message):
  driver = agent.load(agent_folder)
  carry = driver.initial_carry(range(cars))
  with pytest.raises(ValueError, match=message):
    driver(np.zeros(shape, dtype), carry)


def test_wrong_arguments_are_named(agent_folder, frames):
  driver = agent.load(agent_folder)
  carry = driver.initial_carry(range(8))
  small = np.zeros((8, 4), np.float32)
  for arguments, message in (
    ((frames[0].tolist(), carry), r'frames are list\[\], not uint8'),
    ((frames[0], [x > 0 for x in carry]), r'carry is bool\[8, 256\] and'),
    ((frames[0], carry, None, lambda x: x + np.nan), 'changed actions are NaN'),
    ((frames[0], (small, small)), r'carry is .* not twice float32\[8, 256\]'),
  ):
    with pytest.raises(ValueError, match=message):
      driver(*arguments)


def test_what_is_imposed_is_within_the_range(agent_folder, frames):
  driver = agent.load(agent_folder)
  carry = driver.initial_carry(range(1))
  doubles = [x.astype(float).tolist() for x in carry]  # As from JSON.
  action, _ = driver(frames[0, :1], doubles, [[np.inf, -1, np.nan]])
  assert action.dtype == np.float32
  np.testing.assert_array_equal(action[0, :2], [1, 0])
  assert 0 <= action[0, 2] <= 1


def test_actions_that_are_nan_are_an_error(agent_folder, frames):
  driver = agent.load(agent_folder)
  cell, hidden = driver.initial_carry(range(8))
  with pytest.raises(errors.UserError, match='actions that are NaN'):
    driver(frames[0], (cell, hidden + np.nan))
