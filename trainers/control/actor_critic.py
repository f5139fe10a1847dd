"""Soft actor-critic with a linear actor and critics that see more than it.

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications" (2018): two
critics, their moving averages as targets, and a weight of the entropy that is
tuned to a target. The actor is the controller with a standard deviation that is
linear in the same features. Critics are needed in training alone, so they may
see the simulator's state (asymmetric actor-critic, Pinto et al. 2017).
"""

import functools
from typing import Any

from clu import metrics
import jax
import jax.numpy as jnp
from models import controller
import numpy as np
import optax
from trainers import training_log
from trainers.configs import controller as controller_config
from trainers.control import actor_critic_state
from trainers.control import networks
from trainers.control import replay_buffer
from trainers.control import standardisation

_ENTROPY_WEIGHT_LEARNING_RATE_FACTOR = 3.0


# Means over updates.
Metrics = metrics.Collection.create(
  **training_log.averages(
    'loss',  # Squared error of both critics.
    'value',  # Of the actions that were taken, in scaled rewards.
    'entropy',  # Of the squashed actions, nats.
    'temperature',  # Weight of the entropy.
    'learning_rate',  # Of the networks.
  )
)


def create(
  config: controller_config.Config, num_features: int, num_privileged: int
) -> actor_critic_state.TrainState:
  """Returns the state before the first update.

  The controller has F inputs; `num_privileged` numbers describe the simulator's
  state.
  """
  num_inputs = num_privileged if config.privileged_critics else num_features
  keys = jax.random.split(jax.random.key(config.seed), 4)
  actor = networks.Actor().init(keys[0], jnp.zeros((1, num_features)))['params']
  critics = tuple(
    networks.Critic(config.critic_size).init(
      key, jnp.zeros((1, num_inputs + controller.ACTION_SIZE))
    )['params']
    for key in keys[1:3]
  )
  moments = standardisation.Moments(
    jnp.zeros(num_features), jnp.ones(num_features)
  )
  return actor_critic_state.create(
    config, keys[3], actor, critics, [_optimizer(config)] * 3, moments
  )


def standardise(
  state: actor_critic_state.TrainState, features: np.ndarray
) -> actor_critic_state.TrainState:
  """Takes the moments of the features from examples, [..., F]."""
  moments = jax.device_put(
    standardisation.measured(features), state.moments.mean.sharding
  )
  return state.replace(moments=moments)


def acting(
  state: actor_critic_state.TrainState,
) -> tuple[Any, standardisation.Moments]:
  """Returns a copy of what `act` takes, which survives the next update."""
  return jax.tree.map(jnp.copy, (state.actor, state.moments))


def act(
  acting: tuple[Any, standardisation.Moments],
  features: jax.Array,
  noise: jax.Array,
) -> jax.Array:
  """Draws actions, float32 [B, 3] in −1..1, with an actor and its moments.

  The features, float32 [B, F], are not standardised; the noise, float32 [B, 3],
  is standard normal.
  """
  actor, moments = acting
  features = standardisation.standardised(moments, features)
  return _gaussian(actor, features).sample(noise)[0]


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def update(
  config: controller_config.Config,
  state: actor_critic_state.TrainState,
  batches: replay_buffer.Batch,
) -> tuple[actor_critic_state.TrainState, metrics.Collection]:
  """Takes one update of all parameters with each of U batches, [U, B, ...].

  The state before the updates is donated.
  """
  return actor_critic_state.update(
    functools.partial(update_once, config), state, Metrics, batches
  )


def update_once(
  config: controller_config.Config,
  state: actor_critic_state.TrainState,
  batch: replay_buffer.Batch,
) -> tuple[actor_critic_state.TrainState, metrics.Collection]:
  """Takes one update of all parameters."""
  key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.updates)
  noise = jax.random.normal(key, (2, *batch.action.shape))
  batch = jax.tree.map(lambda x: x.astype(jnp.float32), batch)
  features = standardisation.standardised(state.moments, batch.features)
  inputs = batch.privileged if config.privileged_critics else features
  entropy_weight = jnp.exp(state.log_entropy_weight)
  target = critic_target(config, state, batch, noise[0])

  def critic_loss(critics):
    values = _values(config, critics, inputs, batch.action)
    errors = jnp.square(values - target[None]).sum(0)
    return jnp.mean(errors * batch.weight), values.mean()

  def actor_loss(actor, critics):
    action, log_prob = _gaussian(actor, features).sample(noise[1])
    value = _values(config, critics, inputs, action).min(0)
    return jnp.mean(entropy_weight * log_prob - value), log_prob.mean()

  optimizer = _optimizer(config)
  of_actor, of_critics, of_weight = state.optimizers
  (loss, value), gradients = jax.value_and_grad(critic_loss, has_aux=True)(
    state.critics
  )
  updates, of_critics = optimizer.update(gradients, of_critics)
  critics = optax.apply_updates(state.critics, updates)
  gradients, log_prob = jax.grad(actor_loss, has_aux=True)(state.actor, critics)
  updates, of_actor = optimizer.update(gradients, of_actor)
  actor = optax.apply_updates(state.actor, updates)
  # Raises the weight if entropy is missing.
  gradient = -(log_prob + _target_entropy(config)(state.updates))
  update, of_weight = optimizer.update(gradient, of_weight)
  log_weight = (
    state.log_entropy_weight + _ENTROPY_WEIGHT_LEARNING_RATE_FACTOR * update
  )
  of_update = Metrics.single_from_model_output(
    loss=loss,
    value=value,
    entropy=-log_prob,
    temperature=entropy_weight,
    learning_rate=jnp.asarray(_learning_rate(config)(state.updates)),
  )
  optimizers = of_actor, of_critics, of_weight
  state = actor_critic_state.updated(
    config, state, actor, critics, log_weight, optimizers
  )
  return state, of_update


def critic_target(
  config: controller_config.Config,
  state: actor_critic_state.TrainState,
  batch: replay_buffer.Batch,
  noise: jax.Array,
) -> jax.Array:
  """Returns the regression targets of the critics: rewards plus later values.

  Args:
    config: see `trainers/configs/controller.py`.
    state: state with actor, targets and entropy weight.
    batch: transitions, float32 [B, ...].
    noise: standard normal for the next action, float32 [B, 3].

  Returns:
    float32 [B], in scaled rewards.
  """
  features = standardisation.standardised(
    state.moments, jnp.asarray(batch.next_features)
  )
  inputs = batch.next_privileged if config.privileged_critics else features
  action, log_prob = _gaussian(state.actor, features).sample(noise)
  value = _values(config, state.targets, inputs, action).min(0)
  value -= jnp.exp(state.log_entropy_weight) * log_prob
  reward = config.reward_scale * jnp.asarray(batch.reward)
  return reward + jnp.asarray(batch.discount) * value


def _learning_rate(config: controller_config.Config) -> optax.Schedule:
  """Returns the learning rate by number of updates."""
  if not config.cosine_decay:
    return optax.constant_schedule(config.learning_rate)
  return optax.cosine_decay_schedule(config.learning_rate, _updates(config))


def _target_entropy(config: controller_config.Config) -> optax.Schedule:
  """Returns the target of the entropy by number of updates, nats."""
  if not config.cosine_decay:
    return optax.constant_schedule(config.target_entropy)
  return optax.linear_schedule(
    config.target_entropy,
    config.last_target_entropy,
    _updates(config) * 3 // 4,
  )


def _updates(config: controller_config.Config) -> int:
  """Returns the number of updates of a run."""
  steps = max(config.num_steps - config.warmup_steps, 1)
  return steps * config.updates_per_step


def _optimizer(
  config: controller_config.Config,
) -> optax.GradientTransformation:
  return optax.adam(_learning_rate(config))


def _gaussian(actor: Any, features: jax.Array) -> networks.Gaussian:
  return networks.Actor().apply({'params': actor}, features)  # pyright: ignore


def _values(
  config: controller_config.Config,
  critics: Any,
  inputs: jax.Array,
  action: jax.Array,
) -> jax.Array:
  """Returns the values of both critics, float32 [2, B]."""
  critic = networks.Critic(config.critic_size)
  inputs = jnp.concatenate([inputs, action], axis=-1)
  return jnp.stack(
    [critic.apply({'params': x}, inputs) for x in critics]  # pyright: ignore
  )
