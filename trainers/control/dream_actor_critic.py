"""Actor-critic in the dream: start states → rollouts → updates of the networks.

Hafner et al., "Dream to Control: Learning Behaviors by Latent Imagination"
(2020): rollouts are imagined from real states, a critic estimates the value of
what follows them, and the actor climbs the gradient of their λ-returns, through
M. The critic sees all that a dream consists of: z and M's carry. The weight of
the entropy is tuned to a target, as in soft actor-critic.

The component of M's mixture is drawn and fixed; its Gaussian, like that of the
actor, is reparameterised, so that what is sampled has a gradient. Dreams go on
where M expects termination.
"""

from collections.abc import Mapping
import functools
from typing import Any, NamedTuple

from clu import metrics
from flax import linen as nn
import jax
import jax.numpy as jnp
from models import controller
from models import start_states
from models import world_model
import numpy as np
import optax
from trainers import training_log
from trainers.configs import controller_dream
from trainers.control import actor_critic_state
from trainers.control import grass_probe
from trainers.control import networks
from trainers.control import standardisation

# A tile gives 3, most steps −0.1. What lies beyond, such as the −100 off the
# field, is so rare that M's expectation of it says little.
_MIN_REWARD, _MAX_REWARD = -0.5, 8.0
_ENTROPY_WEIGHT_LEARNING_RATE = 3e-3
_MAX_ACTOR_GRADIENT_NORM, _MAX_CRITIC_GRADIENT_NORM = 1.0, 10.0
_LAST_LEARNING_RATE = 0.1  # Of the actor, as a share of the first one.


class DreamWorld(NamedTuple):
  """V and M, and what is fixed before C is trained.

  Attributes:
    model: V and M.
    moments: moments of z, h and c, concatenated, float32 [Z + 2·H].
    grass_params: parameters of the network of `grass_probe`.
  """

  model: world_model.WorldModel
  moments: standardisation.Moments
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


# Means over updates.
Metrics = metrics.Collection.create(
  **training_log.averages(
    'loss',  # Squared error of the critic.
    'value',  # λ-returns, in scaled rewards.
    'reward',  # Expected reward of a step, without penalties.
    'entropy',  # Of the squashed actions, nats.
    'temperature',  # Weight of the entropy.
    'gradient_norm',  # Norm of the actor's gradient before it is clipped.
    'learning_rate',  # Of the actor.
  )
)


def measured(states: start_states.StartStates) -> standardisation.Moments:
  """Measures z, h and c, the inputs of actor and critic, at start states."""
  noise = np.random.default_rng(0).standard_normal(states.mean.shape)
  z = states.mean + np.exp(states.logvar / 2) * noise
  moments = standardisation.measured(
    np.concatenate([z, states.hidden, states.cell], axis=1)
  )
  return jax.tree.map(jnp.asarray, moments)


def create(
  config: controller_dream.Config,
  num_features: int,
  num_inputs: int,
  mean_layer: Mapping[str, Any] | None = None,
) -> actor_critic_state.TrainState:
  """Returns the state before the first update.

  The controller has F inputs and the critic Z + 2·H. The actor's layer of the
  means begins as `mean_layer`, or untrained.
  """
  keys = jax.random.split(jax.random.key(config.seed), 3)
  actor = networks.Actor().init(keys[0], jnp.zeros((1, num_features)))['params']
  if mean_layer is not None:
    actor = {**actor, 'mean': mean_layer}
  critic = _critic(config).init(keys[1], jnp.zeros((1, num_inputs)))['params']
  return actor_critic_state.create(
    config, keys[2], actor, critic, _optimizers(config)
  )


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def update(
  config: controller_dream.Config,
  c: controller.Controller,
  state: actor_critic_state.TrainState,
  world: DreamWorld,
  starts: start_states.StartStates,
) -> tuple[actor_critic_state.TrainState, metrics.Collection]:
  """Takes `updates_per_step` updates of all parameters.

  The actor sees the features of `c`. The state before the updates is donated.
  """
  return actor_critic_state.update(
    lambda state, _: update_once(config, c, state, world, starts),
    state,
    Metrics,
    length=config.updates_per_step,
  )


def update_once(
  config: controller_dream.Config,
  c: controller.Controller,
  state: actor_critic_state.TrainState,
  world: DreamWorld,
  starts: start_states.StartStates,
) -> tuple[actor_critic_state.TrainState, metrics.Collection]:
  """Takes one update of all parameters; see `update`."""
  key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.updates)
  start_key, dream_key = jax.random.split(key)
  start = start_states.draw(starts, config.num_dreams, start_key)
  entropy_weight = jnp.exp(state.log_entropy_weight)

  def actor_loss(actor):
    dreamt = imagine(config, c, world, actor, start, dream_key)
    value = _value(config, state.targets, world.moments, dreamt.state)
    returns = lambda_returns(
      config.reward_scale * dreamt.shaped_reward,
      value,
      config.discount,
      config.trace_decay,
    )
    loss = entropy_weight * dreamt.log_prob.mean() - returns.mean()
    return loss, (dreamt, returns)

  def critic_loss(critic, before, returns):
    errors = _value(config, critic, world.moments, before) - returns
    return jnp.square(errors).mean()

  gradient, (dreamt, returns) = jax.grad(actor_loss, has_aux=True)(state.actor)
  before = jax.tree.map(
    lambda first, after: jnp.concatenate([first[None], after[:-1]]),
    start,
    dreamt.state,
  )
  loss, of_critic = jax.value_and_grad(critic_loss)(
    state.critics, before, returns
  )
  # Raises the weight if entropy is missing.
  of_entropy_weight = -(dreamt.log_prob.mean() + config.target_entropy)
  params, optimizers = [], []
  for optimizer, of_optimizer, gradients, x in zip(
    _optimizers(config),
    state.optimizers,
    (gradient, of_critic, of_entropy_weight),
    (state.actor, state.critics, state.log_entropy_weight),
  ):
    updates, of_optimizer = optimizer.update(gradients, of_optimizer)
    params.append(optax.apply_updates(x, updates))
    optimizers.append(of_optimizer)
  of_update = Metrics.single_from_model_output(
    loss=loss,
    value=returns.mean(),
    reward=dreamt.reward.mean(),
    entropy=-dreamt.log_prob.mean(),
    temperature=entropy_weight,
    gradient_norm=optax.tree.norm(gradient),
    learning_rate=jnp.asarray(_learning_rate(config)(state.updates)),
  )
  actor, critic, log_weight = params
  state = actor_critic_state.updated(
    config, state, actor, critic, log_weight, tuple(optimizers)
  )
  return state, of_update


def imagine(
  config: controller_dream.Config,
  c: controller.Controller,
  world: DreamWorld,
  actor: Any,
  start: world_model.State,
  key: jax.Array,
) -> Rollout:
  """Imagines `dream_steps` steps of the actor, differentiably.

  The actor sees the features of `c`; `start` is [B, ...].
  """

  def step(state, key):
    action_key, z_key = jax.random.split(key)
    features = c.features(state.z, state.carry[1])
    gaussian = networks.Actor().apply(
      {'params': actor}, standardisation.standardised(world.moments, features)
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
      off_road = grass_probe.share(world.grass_params, state.z)
      shaped_reward -= config.grass_penalty * off_road
    return state, Rollout(state, reward, shaped_reward, log_prob)

  keys = jax.random.split(key, config.dream_steps)
  return jax.lax.scan(step, start, keys)[1]


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

  return jax.lax.scan(step, value[-1], (reward, value), reverse=True)[1]


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

  The dreams of `num_steps` are at temperature 1; `start` is [B, ...].
  """

  def step(state, key):
    action = c.apply({'params': params}, state.z, state.carry[1])
    state, reward, _ = world_model.imagine(model, state, action, key)
    return state, reward

  keys = jax.random.split(key, num_steps)
  return jax.lax.scan(step, start, keys)[1].mean()


def _learning_rate(config: controller_dream.Config) -> optax.Schedule:
  """Returns the learning rate of the actor by number of updates."""
  return optax.cosine_decay_schedule(
    config.learning_rate,
    config.num_steps * config.updates_per_step,
    _LAST_LEARNING_RATE,
  )


def _optimizers(
  config: controller_dream.Config,
) -> tuple[optax.GradientTransformation, ...]:
  """Returns the optimizers of actor, critic and entropy weight."""
  return (
    optax.chain(
      optax.clip_by_global_norm(_MAX_ACTOR_GRADIENT_NORM),
      optax.adam(_learning_rate(config)),
    ),
    optax.chain(
      optax.clip_by_global_norm(_MAX_CRITIC_GRADIENT_NORM),
      optax.adam(config.critic_learning_rate),
    ),
    optax.adam(_ENTROPY_WEIGHT_LEARNING_RATE),
  )


def _critic(config: controller_dream.Config) -> networks.Critic:
  # Gradients flow through it to the actor, so it has to be smooth.
  return networks.Critic(config.critic_size, nn.silu)


def _value(
  config: controller_dream.Config,
  critic: Any,
  moments: standardisation.Moments,
  state: world_model.State,
) -> jax.Array:
  """Returns the values of states, float32 [...], in scaled rewards."""
  cell, hidden = state.carry
  inputs = jnp.concatenate([state.z, hidden, cell], axis=-1)
  return _critic(config).apply(  # pyright: ignore
    {'params': critic}, standardisation.standardised(moments, inputs)
  )
