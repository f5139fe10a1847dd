"""The parts of soft actor-critic against other sources and known answers."""

from conftest import tiny_controller_config
import jax
import jax.numpy as jnp
import ml_collections
from models import controller
import numpy as np
import pytest
from scipy import stats
from trainers.control import actor_critic
from trainers.control import driving
from trainers.control import networks
from trainers.control import practice
from trainers.control import replay_buffer
from trainers.control import standardisation

RUNNING, FAILED, TRUNCATED, COMPLETED = practice.Outcome


def config_with(**changes):
  config = tiny_controller_config()
  config.update(**changes)
  return ml_collections.FrozenConfigDict(config)


def test_density_of_the_squashed_gaussian():
  rng = np.random.default_rng(0)
  mean = rng.normal(size=(50, 3)) * 2
  log_std = rng.uniform(-2, 0.5, (50, 3))
  noise = rng.normal(size=(50, 3))
  with jax.enable_x64(True):
    gaussian = networks.Gaussian(jnp.asarray(mean), jnp.asarray(log_std))
    action, log_prob = jax.device_get(gaussian.sample(jnp.asarray(noise)))
  before = np.arctanh(action)
  expected = stats.norm.logpdf(before, mean, np.exp(log_std)) - np.log(
    1 - action**2
  )
  np.testing.assert_allclose(log_prob, expected.sum(-1), rtol=1e-6)


def test_density_is_finite_for_extreme_actions():
  gaussian = networks.Gaussian(jnp.full((1, 3), 100.0), jnp.zeros((1, 3)))
  action, log_prob = gaussian.sample(jnp.ones((1, 3)))
  assert (action == 1).all()
  assert jnp.isfinite(log_prob).all()


@pytest.fixture
def buffer():
  """Row 3 ends the episodes of all cars but the third one."""
  buffer = replay_buffer.empty(6, 4, 1, 1)
  buffer.features[:, :, 0] = np.arange(6)[:, None]
  buffer.reward[:] = 2.0 ** np.arange(6)[:, None]
  buffer.outcome[3] = FAILED, TRUNCATED, RUNNING, COMPLETED
  return buffer


@pytest.mark.parametrize(
  ('car', 'first', 'reward', 'discount', 'next_row', 'weight'),
  [
    (2, 0, 1 + 0.5 * 2 + 0.25 * 4, 0.125, 3, 1),  # Nothing special.
    (0, 0, 1 + 0.5 * 2 + 0.25 * 4, 0.125, 3, 1),  # Ends just before row 3.
    (0, 1, 2 + 0.5 * 4 + 0.25 * 8 + 0.125 * -7, 0, None, 1),
    (0, 3, 8 + 0.5 * -7, 0, None, 1),
    (1, 1, 2 + 0.5 * 4, 0.25, 3, 1),  # Bootstraps from before row 3.
    (1, 3, 0, 1, 3, 0),  # Its next state is unknown.
    (3, 1, 2 + 0.5 * 4, 0.25, 3, 1),  # A lap is like a truncation.
    (3, 3, 0, 1, 3, 0),
    (2, 5, 32 + 0.5 * 1 + 0.25 * 2, 0.125, 2, 1),  # Row 6 is at place 0.
  ],
)
def test_transitions(buffer, car, first, reward, discount, next_row, weight):
  batch = replay_buffer.transitions(
    buffer,
    np.array([first]),
    np.array([car]),
    num_steps=3,
    discount=0.5,
    failure_value=-7,
  )
  assert batch.reward == reward
  assert batch.discount == discount
  assert batch.weight == weight
  assert batch.features[0] == first
  if next_row is not None:
    assert batch.next_features[0] == next_row


def test_sampled_transitions_are_of_written_rows(buffer):
  batch = replay_buffer.sample(
    buffer, 5, (40, 10), np.random.default_rng(0), 2, 0.5, 0
  )
  assert batch.features.shape == (40, 10, 1)
  assert set(batch.features.ravel()) == {0, 1, 2}
  # Rows 3 to 8 are left of nine, and the last two lack a next state.
  batch = replay_buffer.sample(
    buffer, 9, (40, 10), np.random.default_rng(0), 2, 0.5, 0
  )
  assert set(batch.features.ravel()) == {3, 4, 5, 0}


def test_updates_compile_once():
  config = config_with(seed=9)  # No other test uses this config.
  state = actor_critic.create(config, 4, 51)
  state = jax.device_put(state, jax.devices()[0])
  state = actor_critic.standardise(state, np.ones((3, 4)))
  buffer = replay_buffer.empty(20, 2, 4, 51)
  before = actor_critic.update._cache_size()
  for _ in range(3):
    batches = replay_buffer.sample(
      buffer, 20, (2, 8), np.random.default_rng(0), 3, 0.9, 0
    )
    state, _ = actor_critic.update(config, state, batches)
  assert actor_critic.update._cache_size() == before + 1


def test_exploration_noise_is_standard_normal_with_memory():
  rng = np.random.default_rng(0)
  noise = [np.zeros(1000)]
  for _ in range(300):
    noise.append(driving.continue_noise(noise[-1], 0.8, rng))
  last, one_before = noise[-1], noise[-2]
  assert last.std() == pytest.approx(1, abs=0.1)
  assert np.corrcoef(last, one_before)[0, 1] == pytest.approx(0.8, abs=0.05)


def transitions():
  """Returns two random transitions; the second one fails."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
  return replay_buffer.Batch(
    draw(2, 4), draw(2, 6), draw(2, 3), draw(2), np.array([0.9, 0.0]),
    draw(2, 4), draw(2, 6), np.ones(2),
  )  # fmt: skip


@pytest.mark.parametrize('falls', [False, True])
def test_target_of_the_entropy_moves_with_the_learning_rate(falls):
  config = config_with(
    cosine_decay=falls, target_entropy=-100.0, last_target_entropy=100.0
  )
  state = actor_critic.create(config, 4, 6)
  update_once = jax.jit(actor_critic.update_once, static_argnums=0)
  for done in 0.25, 0.75:  # Of the updates of the run.
    steps = config.num_steps - config.warmup_steps
    updates = int(done * steps * config.updates_per_step)
    after, _ = update_once(
      config, state.replace(updates=jnp.array(updates)), transitions()
    )
    rises = after.log_entropy_weight > state.log_entropy_weight
    assert rises == (falls and done > 0.5)


@pytest.mark.parametrize('privileged', [False, True])
def test_target_of_the_critics(privileged):
  config = config_with(privileged_critics=privileged, reward_scale=0.1)
  state = actor_critic.create(config, 4, 6)
  # Different targets, so that taking the smaller one matters.
  targets = tuple(
    jax.tree.map(lambda x, i=i: x + 0.1 * i, x)
    for i, x in enumerate(state.targets)
  )
  state = state.replace(targets=targets)
  state = actor_critic.standardise(
    state, np.random.default_rng(1).normal(3, 2, (9, 4))
  )
  batch = transitions()
  noise = np.float32(np.random.default_rng(2).normal(size=(2, 3)))
  found = actor_critic.critic_target(config, state, batch, noise)

  mean, std = map(np.asarray, state.moments)
  features = (batch.next_features - mean) / std
  gaussian = networks.Actor().apply({'params': state.actor}, features)
  action, log_prob = gaussian.sample(noise)
  seen = batch.next_privileged if privileged else features
  critic = networks.Critic(config.critic_size)
  seen = np.concatenate([seen, action], axis=-1)
  values = [critic.apply({'params': x}, seen) for x in targets]
  soft = np.minimum(*values) - config.initial_temperature * log_prob
  expected = 0.1 * batch.reward + batch.discount * soft
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert found[1] == pytest.approx(0.1 * batch.reward[1])  # A failure.


def test_folding_the_standardisation_changes_no_action():
  rng = np.random.default_rng(0)
  mean, std = rng.normal(size=288), rng.uniform(0.2, 2, 288)
  kernel, bias = 0.05 * rng.normal(size=(288, 3)), rng.normal(size=3)
  features = (mean + std * rng.normal(size=(100, 288))).astype(np.float32)
  params = standardisation.folded(
    {'kernel': kernel, 'bias': bias}, standardisation.Moments(mean, std)
  )
  c = controller.Controller()
  found = c.apply({'params': params}, features[:, :32], features[:, 32:])
  standardised = (features - mean) / std
  expected = controller.to_action(np.tanh(standardised @ kernel + bias))
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_it_learns_the_best_action_of_a_toy_problem():
  """One step per episode; the best action is a known function of features."""
  config = config_with(
    privileged_critics=False,
    critic_size=64,
    learning_rate=3e-3,
    cosine_decay=False,
    reward_scale=1.0,
    ema_decay=0.95,
    batch_size=128,
    target_entropy=-6.0,
  )
  rng = np.random.default_rng(0)
  buffer = replay_buffer.empty(500, 8, 4, 1)
  buffer.features[:] = rng.normal(size=buffer.features.shape)
  weights = rng.normal(size=(4, 3)) / 2
  best = lambda features: np.tanh(features @ weights)  # noqa: E731
  buffer.action[:] = rng.uniform(-1, 1, buffer.action.shape)
  errors = buffer.action - best(buffer.features.astype(np.float32))
  buffer.reward[:] = -(errors**2).sum(-1)
  buffer.outcome[:] = FAILED

  state = actor_critic.create(config, 4, 1)
  state = actor_critic.standardise(state, buffer.features)
  for _ in range(10):
    batches = replay_buffer.sample(buffer, 500, (100, 128), rng, 1, 0.5, 0)
    state, _ = actor_critic.update(config, state, batches)
  features = rng.normal(size=(200, 4)).astype(np.float32)
  params = standardisation.folded(state.average['mean'], state.moments)
  found = driving.linear(params, features, jnp.zeros(()))
  error = np.square(found - best(features)).mean()
  assert error < 0.02  # 0.4 for a controller that always says 0.
