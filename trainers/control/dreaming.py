"""Imagined rollouts of an actor, through which gradients flow.

The component of M's mixture is drawn and fixed; its Gaussian, like that of the
actor, is reparameterised, so that what is sampled has a gradient. Dreams go on
where M expects termination.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from models import controller
from models import start_states
from models import world_model
import numpy as np
from trainers.control import exploration
from trainers.control import grass
from trainers.control import networks

# A tile gives 3, most steps −0.1. What lies beyond, such as the −100 off the
# field, is so rare that M's expectation of it says little.
_MIN_REWARD, _MAX_REWARD = -0.5, 8.0


class Moments(NamedTuple):
  """Mean and standard deviation of z, h and c, concatenated.

  Attributes:
    mean: float32 [Z + 2·H].
    std: likewise.
  """

  mean: jax.Array
  std: jax.Array


class DreamWorld(NamedTuple):
  """V and M, and what is fixed before C is trained.

  Attributes:
    model: V and M.
    moments: moments of what actor and critic see.
    grass_params: parameters of the network of `grass`.
  """

  model: world_model.WorldModel
  moments: Moments
  grass_params: Any


class Rollout(NamedTuple):
  """T imagined steps of B dreams.

  Attributes:
    state: state after each step, [T, B, ...].
    reward: M's expected reward, float32 [T, B].
    shaped_reward: reward with penalties, float32 [T, B].
    log_prob: log density of the action, float32 [T, B], nats.
  """

  state: world_model.State
  reward: jax.Array
  shaped_reward: jax.Array
  log_prob: jax.Array


def measure(states: start_states.StartStates) -> Moments:
  """Measures the inputs of actor and critic at the start states."""
  noise = np.random.default_rng(0).standard_normal(states.mean.shape)
  z = states.mean + np.exp(states.logvar / 2) * noise
  moments = exploration.moments(
    np.concatenate([z, states.hidden, states.cell], axis=1)
  )
  return Moments(*map(jnp.asarray, moments))


def imagine(
  config: ml_collections.FrozenConfigDict,
  c: controller.Controller,
  world: DreamWorld,
  actor: Any,
  start: world_model.State,
  key: jax.Array,
) -> Rollout:
  """Imagines `dream_steps` steps of the actor, differentiably.

  Args:
    config: see `trainers/configs/controller_dream.py`.
    c: controller whose features the actor sees.
    world: V and M, moments and the network of `grass`.
    actor: parameters of the actor.
    start: states before the first step, [B, ...].
    key: random key.
  """

  def step(state, key):
    action_key, z_key = jax.random.split(key)
    gaussian = networks.Actor().apply(
      {'params': actor}, standardised_features(c, world.moments, state)
    )
    noise = jax.random.normal(action_key, gaussian.mean.shape)
    squashed, log_prob = gaussian.sample(noise)
    action = controller.to_action(squashed)
    state, reward, _ = world_model.imagine(
      world.model, state, action, z_key, config.dream_temperature
    )
    reward = jnp.clip(reward, _MIN_REWARD, _MAX_REWARD)
    _, gas, _ = jnp.moveaxis(action, -1, 0)
    shaped_reward = reward - config.gas_penalty * jnp.square(gas)
    if config.grass_penalty:
      off_road = grass.share(world.grass_params, state.z)
      shaped_reward -= config.grass_penalty * off_road
    return state, Rollout(state, reward, shaped_reward, log_prob)

  keys = jax.random.split(key, config.dream_steps)
  return jax.lax.scan(step, start, keys)[1]


@functools.partial(jax.jit, static_argnums=(0, 1))
def dreamt_reward(
  c: controller.Controller,
  num_steps: int,
  model: world_model.WorldModel,
  params: Any,
  start: world_model.State,
  key: jax.Array,
) -> jax.Array:
  """Returns the mean reward of a step that a controller dreams, float32 [].

  Args:
    c: the controller.
    num_steps: length of the dreams, at temperature 1.
    model: V and M.
    params: parameters of the controller.
    start: states before the first step, [B, ...].
    key: random key.
  """

  def step(state, key):
    action = c.apply({'params': params}, state.z, state.carry[1])
    state, reward, _ = world_model.imagine(model, state, action, key)
    return state, reward

  keys = jax.random.split(key, num_steps)
  return jax.lax.scan(step, start, keys)[1].mean()


def lambda_returns(
  reward: jax.Array, value: jax.Array, discount: float, trace_decay: float
) -> jax.Array:
  """Returns λ-returns: means of n-step returns with weights λⁿ.

  Args:
    reward: reward of each step, float32 [T, B].
    value: value of the state after each step, float32 [T, B].
    discount: γ.
    trace_decay: λ.

  Returns:
    float32 [T, B].
  """

  def step(later, x):
    reward, value = x
    mixed = (1 - trace_decay) * value + trace_decay * later
    later = reward + discount * mixed
    return later, later

  _, returns = jax.lax.scan(step, value[-1], (reward, value), reverse=True)
  return returns


def standardised_features(
  c: controller.Controller, moments: Moments, state: world_model.State
) -> jax.Array:
  """Returns the standardised features of the controller, float32 [..., F]."""
  return standardised(moments, c.features(state.z, state.carry[1]))


def standardised(moments: Moments, x: jax.Array) -> jax.Array:
  """Standardises float32 [..., F] with the first F moments."""
  leading = tuple(range(x.ndim - 1))
  mean, std = (jnp.expand_dims(y[: x.shape[-1]], leading) for y in moments)
  return (x - mean) / std
