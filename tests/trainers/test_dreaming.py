"""Actor-critic in the dream, against other sources and known answers."""

from carracing_rollouts import environment
from conftest import tiny_dream_config
from flax import linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from models import agent
from models import controller
from models import start_states
from models import world_model
import numpy as np
import pytest
from trainers.control import dream_actor_critic
from trainers.control import grass_probe
from trainers.control import networks
from trainers.control import standardisation

C = controller.Controller()
IMAGINE = jax.jit(dream_actor_critic.imagine, static_argnums=(0, 1))
UPDATE_ONCE = jax.jit(dream_actor_critic.update_once, static_argnums=(0, 1))

# Two tests learn with these, so that they compile one program.
LEARNING = {
  'learning_rate': 0.03,
  'updates_per_step': 30,
  'num_steps': 4,
  'num_dreams': 16,
  'target_entropy': -6.0,
  'gas_penalty': 0.0,
  'grass_penalty': 0.0,
}


def config_with(**changes):
  config = tiny_dream_config()
  config.update(**changes)
  return ml_collections.FrozenConfigDict(config)


@pytest.fixture(scope='module')
def dreams(world):
  """What updates dream with, and the states from which dreams start."""
  model = world_model.load(world.vae, world.mdn_rnn)
  states = start_states.load(world.mdn_rnn)
  moments = dream_actor_critic.measured(states)
  grass_params = grass_probe.fit(model, states, 0)
  return dream_actor_critic.DreamWorld(model, moments, grass_params), states


def test_lambda_returns_mix_returns_of_all_lengths():
  rng = np.random.default_rng(0)
  reward, value = rng.normal(size=(2, 4, 3)).astype(np.float32)
  discount, decay = 0.9, 0.7
  found = dream_actor_critic.lambda_returns(
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
  dream_world, states = dreams
  config = config_with(dream_temperature=1e-6)
  state = dream_actor_critic.create(config, 288, 544)
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
  found = IMAGINE(config, C, dream_world, actor, start, jax.random.key(2))
  params = standardisation.folded(actor['mean'], dream_world.moments)
  current, imagine = start, jax.jit(world_model.imagine)
  for step in range(config.dream_steps):
    action = C.apply({'params': params}, current.z, current.carry[1])
    current, reward, _ = imagine(
      dream_world.model, current, action, jax.random.key(0), 0
    )
    # exp(−4) is the least deviation of the actor.
    np.testing.assert_allclose(found.state.z[step], current.z, atol=0.1)
    expected = np.clip(reward, -0.5, 8)
    np.testing.assert_allclose(found.reward[step], expected, atol=0.1)
    current = jax.tree.map(lambda x, step=step: x[step], found.state)


def test_the_gradient_of_a_return_flows_through_m(dreams):
  """The gradient agrees with the slope of the return itself."""
  dream_world, states = dreams
  config = config_with()
  state = dream_actor_critic.create(config, 288, 544)
  start = start_states.draw(states, 4, jax.random.key(1))

  def value(bias):
    mean = {**state.actor['mean'], 'bias': bias}
    dreamt = IMAGINE(
      config,
      C,
      dream_world,
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
  dream_world, states = dreams
  config = config_with(**LEARNING, initial_temperature=1e-4)
  model = dream_world.model
  # The bias of M's outcomes cannot depend on the action, its carry does: the
  # reward is high where the hidden state moves as if there were gas.
  start = start_states.draw(states, 64, jax.random.key(5))

  def dreamt(state):
    params = standardisation.folded(state.average['mean'], dream_world.moments)
    reward = dream_actor_critic.dreamt_reward(
      C, 20, model, params, start, jax.random.key(3)
    )
    return float(reward)

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
  state = dream_actor_critic.create(config, 288, 544)
  before = dreamt(state)
  for _ in range(config.num_steps):
    state, collected = dream_actor_critic.update(
      config, C, state, dream_world._replace(model=model), states
    )
  assert int(state.updates) == 120
  assert np.isfinite(collected.compute()['loss'])
  assert dreamt(state) > before + 0.01


def test_an_update_follows_its_formulas(dreams):
  """One update against plain formulas on the rollout that it imagined."""
  dream_world, states = dreams
  config = config_with(
    learning_rate=1e-3,
    critic_learning_rate=2e-3,
    num_dreams=5,
    gas_penalty=0.5,
    ema_decay=0.9,
    target_ema_decay=0.6,
  )
  before = dream_actor_critic.create(config, 288, 544)
  # Values that differ between states, and a target that differs from them.
  rng = np.random.default_rng(0)
  critic = jax.tree.map(
    lambda x: x + 0.1 * rng.standard_normal(x.shape).astype(np.float32),
    before.critics,
  )
  before = before.replace(critics=critic)
  after, metrics = UPDATE_ONCE(config, C, before, dream_world, states)

  key = jax.random.fold_in(jax.random.wrap_key_data(before.key), 0)
  start_key, dream_key = jax.random.split(key)
  start = start_states.draw(states, 5, start_key)
  dreamt = IMAGINE(config, C, dream_world, before.actor, start, dream_key)

  @jax.jit
  def values(critic, state):
    cell, hidden = state.carry
    x = jnp.concatenate([state.z, hidden, cell], -1).reshape(-1, 544)
    mean, std = dream_world.moments
    x = (x - mean[None]) / std[None]
    module = networks.Critic(config.critic_size, nn.silu)
    return module.apply({'params': critic}, x).reshape(state.z.shape[:-1])

  returns = jax.jit(dream_actor_critic.lambda_returns)(
    0.1 * dreamt.shaped_reward,
    values(before.targets, dreamt.state),
    config.discount,
    config.trace_decay,
  )
  earlier = jax.tree.map(
    lambda x, y: jnp.concatenate([x[None], y[:-1]]), start, dreamt.state
  )

  def critic_loss(critic):
    return jnp.square(values(critic, earlier) - returns).mean()

  loss, gradient = jax.jit(jax.value_and_grad(critic_loss))(before.critics)
  measured = {k: float(v) for k, v in metrics.compute().items()}
  assert measured['loss'] == pytest.approx(float(loss), rel=1e-3)
  assert measured['value'] == pytest.approx(float(returns.mean()), rel=1e-3)
  # The first step of Adam follows the sign of the gradient.
  for x, y, g in zip(
    *map(jax.tree.leaves, (before.critics, after.critics, gradient))
  ):
    large = np.abs(g) > 1e-4
    np.testing.assert_allclose(
      (y - x)[large], -2e-3 * np.sign(g)[large], rtol=0.02
    )
  for old, new, average, decay in (
    (before.targets, after.critics, after.targets, 0.6),
    (before.average, after.actor, after.average, 0.9),
  ):
    jax.tree.map(
      lambda x, y, z, decay=decay: np.testing.assert_allclose(
        z, decay * x + (1 - decay) * y, atol=1e-6
      ),
      old,
      new,
      average,
    )
  # More entropy than wanted: its weight falls.
  assert -dreamt.log_prob.mean() > config.target_entropy
  assert after.log_entropy_weight < before.log_entropy_weight
  # Less than wanted, of an actor that hardly deviates: it rises.
  log_std = jax.tree.map(
    lambda x: x - 5 if x.ndim == 1 else x, before.actor['log_std']
  )
  before = before.replace(actor={**before.actor, 'log_std': log_std})
  rising, _ = UPDATE_ONCE(config, C, before, dream_world, states)
  assert rising.log_entropy_weight > before.log_entropy_weight


def test_gas_costs_its_square_and_grass_its_share(dreams):
  dream_world, states = dreams
  grass_params = grass_probe.create(C.latent_size, 0)  # Differs from z to z.
  dream_world = dream_world._replace(grass_params=grass_params)
  state = dream_actor_critic.create(config_with(), 288, 544)
  start = start_states.draw(states, 4, jax.random.key(1))
  bias = state.actor['mean']['bias'].at[1].set(30.0)  # Full gas.
  actor = {**state.actor, 'mean': {**state.actor['mean'], 'bias': bias}}
  for gas_cost, grass_cost in (0.7, 0.0), (0.7, 1.3):
    dreamt = IMAGINE(
      config_with(gas_penalty=gas_cost, grass_penalty=grass_cost),
      C,
      dream_world,
      actor,
      start,
      jax.random.key(2),
    )
    on_grass = grass_probe.share(dream_world.grass_params, dreamt.state.z)
    assert on_grass.std() > 0.01
    np.testing.assert_allclose(
      dreamt.reward - dreamt.shaped_reward,
      gas_cost + grass_cost * on_grass,
      atol=1e-5,
    )


def test_grass_beside_the_car_is_seen_in_the_game():
  env = environment.Environments([0], 1000)
  frames, found = env.reset(), {}
  for step in range(140):
    observation = environment.resize(frames).astype(np.float32) / 255
    found[step] = float(grass_probe.beside_car(jnp.asarray(observation))[0])
    # It stays on the road, then turns off it.
    action = [0, 0.05, 0] if step < 60 else [1, 0.6, 0]
    frames = env.step(np.array([0]), np.float32([action])).frame
  # While the camera zooms in nothing is seen.
  assert max(found[step] for step in range(61)) < 0.35
  assert max(found[step] for step in range(45, 61)) < 0.05
  assert found[125] > 0.9


def test_grass_is_predicted_from_z():
  folder = agent.PRETRAINED
  model = world_model.load(folder / 'vae', folder / 'mdn_rnn')
  states = start_states.load(folder / 'mdn_rnn')
  known, others = (
    start_states.StartStates(*(x[i::2] for x in states)) for i in range(2)
  )
  params = grass_probe.fit(model, known, 0)
  z = start_states.draw(others, 256, jax.random.key(7)).z
  shown = np.asarray(grass_probe.beside_car(world_model.decode(model, z)))
  predicted = np.asarray(grass_probe.share(params, z))
  assert shown.std() > 0.05
  assert np.square(predicted - shown).mean() < 0.5 * shown.var()


def test_a_heavy_entropy_keeps_actions_random(dreams):
  dream_world, states = dreams
  entropies = []
  for weight in 1e-4, 1.0:
    config = config_with(**LEARNING, initial_temperature=weight)
    state = dream_actor_critic.create(config, 288, 544)
    for _ in range(config.num_steps):
      state, collected = dream_actor_critic.update(
        config, C, state, dream_world, states
      )
    entropies.append(float(collected.compute()['entropy']))
  assert entropies[1] > entropies[0] + 0.2
