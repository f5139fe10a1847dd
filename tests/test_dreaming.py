"""Actor-critic in the dream, against other sources and known answers."""

from conftest import tiny_dream_config
import jax
import jax.numpy as jnp
import ml_collections
from models import controller
from models import start_states
from models import world_model
import numpy as np
import pytest
from trainers.control import dreaming
from trainers.control import driving

C = controller.Controller()


def config_with(**changes):
  config = tiny_dream_config()
  config.update(**changes)
  return ml_collections.FrozenConfigDict(config)


@pytest.fixture(scope='module')
def dreams(world):
  """A world model, its start states and the moments of what networks see."""
  model = world_model.load(world.vae, world.mdn_rnn)
  states = start_states.load(world.mdn_rnn)
  return model, states, dreaming.measure(states)


def test_lambda_returns_mix_returns_of_all_lengths():
  rng = np.random.default_rng(0)
  reward, value = rng.normal(size=(2, 4, 3)).astype(np.float32)
  discount, decay = 0.9, 0.7
  found = dreaming.lambda_returns(
    jnp.asarray(reward), jnp.asarray(value), discount, decay
  )
  for start in range(4):
    # The n-step return: n rewards, and the value of what follows.
    of_n = [
      sum(discount**i * reward[start + i] for i in range(n))
      + discount**n * value[start + n - 1]
      for n in range(1, 5 - start)
    ]
    weights = [(1 - decay) * decay**i for i in range(len(of_n))]
    weights[-1] = decay ** (len(of_n) - 1)  # Nothing longer is known.
    expected = sum(w * x for w, x in zip(weights, of_n))
    np.testing.assert_allclose(found[start], expected, rtol=1e-5)


def test_rollouts_are_what_the_world_model_imagines(dreams):
  model, states, moments = dreams
  config = config_with(dream_temperature=1e-6)
  state = dreaming.create(config, 288, 544)
  start = start_states.draw(states, 4, jax.random.key(1))
  rng = np.random.default_rng(0)
  # So that noise hardly matters, and actions depend on what is seen.
  actor = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.1, x.shape), jnp.float32), state.actor
  )
  actor['log_std'] = jax.tree.map(
    lambda x: jnp.full(x.shape, -50.0) if x.ndim == 1 else 0 * x,
    actor['log_std'],
  )
  found = dreaming.imagine(
    config, C, model, moments, actor, start, jax.random.key(2)
  )
  params = driving.folded(
    *jax.device_get((actor['mean']['kernel'], actor['mean']['bias'])),
    *jax.device_get((moments.mean[:288], moments.std[:288])),
  )
  current = start
  for step in range(config.dream_steps):
    action = C.apply({'params': params}, current.z, current.carry[1])
    current, reward, _ = world_model.imagine(
      model, current, action, jax.random.key(0), 0
    )
    # exp(−4) is the least deviation of the actor.
    np.testing.assert_allclose(found.state.z[step], current.z, atol=0.1)
    expected = np.clip(reward, -0.5, 8)
    np.testing.assert_allclose(found.reward[step], expected, atol=0.1)
    current = jax.tree.map(lambda x, step=step: x[step], found.state)


def test_the_gradient_of_a_return_flows_through_m(dreams):
  """The gradient agrees with the slope of the return itself."""
  model, states, moments = dreams
  config = config_with()
  state = dreaming.create(config, 288, 544)
  start = start_states.draw(states, 4, jax.random.key(1))

  def value(bias):
    mean = {**state.actor['mean'], 'bias': bias}
    dreamt = dreaming.imagine(
      config,
      C,
      model,
      moments,
      {**state.actor, 'mean': mean},
      start,
      jax.random.key(2),
    )
    # Of the z after all steps, which M alone connects with the first action.
    return dreamt.state.z[-1].mean()

  bias = state.actor['mean']['bias']
  gradient = jax.grad(value)(bias)
  assert np.abs(gradient).max() > 1e-6
  for index in range(3):
    step = np.zeros(3, np.float32)
    step[index] = 1e-2
    slope = (value(bias + step) - value(bias - step)) / 2e-2
    np.testing.assert_allclose(gradient[index], slope, rtol=0.1, atol=2e-5)


def test_updates_raise_what_is_dreamt(dreams):
  """With M's reward replaced by the gas pedal, C learns to press it."""
  model, states, moments = dreams
  config = config_with(
    learning_rate=0.03,
    updates_per_step=30,
    num_steps=4,
    num_dreams=16,
    target_entropy=-6.0,
    initial_temperature=1e-4,
  )
  # The bias of M's outcomes cannot depend on the action, its carry does: the
  # reward is high where the hidden state moves as if there were gas.
  start = start_states.draw(states, 64, jax.random.key(5))

  def dreamt(state):
    params = driving.folded(
      *jax.device_get(
        (state.average['mean']['kernel'], state.average['mean']['bias'])
      ),
      *jax.device_get((moments.mean[:288], moments.std[:288])),
    )
    return float(
      dreaming.dreamt_reward(C, 20, model, params, start, jax.random.key(3))
    )

  outcomes = model.m_variables['params']['outcomes']
  kernel = np.zeros(outcomes['kernel'].shape, np.float32)
  action = jnp.array([[0.0, 1.0, 0.0]])
  hidden = [
    world_model.predict(
      model, jax.tree.map(lambda x: x[:1], start), gas * action
    )[1][1][0]
    for gas in (0, 1)
  ]
  kernel[:, 24] = 300 * np.asarray(hidden[1] - hidden[0])  # A bin of +0.5.
  params = {
    **model.m_variables['params'],
    'outcomes': {'kernel': jnp.asarray(kernel), 'bias': outcomes['bias']},
  }
  model = model.replace(m_variables={'params': params})
  state = dreaming.create(config, 288, 544)
  before = dreamt(state)
  for _ in range(config.num_steps):
    state, collected = dreaming.update(config, C, state, model, states, moments)
  assert int(state.updates) == 120
  assert np.isfinite(collected.compute()['loss'])
  assert dreamt(state) > before + 0.01
