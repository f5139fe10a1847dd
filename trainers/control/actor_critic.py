"""Soft actor-critic with a linear actor and critics that see more than it.

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications" (2018): two
critics, their moving averages as targets, and a temperature that is tuned to a
target entropy. The actor is the controller with a standard deviation that is
linear in the same features. Critics are needed in training alone, so they may
see the simulator's state (asymmetric actor-critic, Pinto et al. 2017).

Features are standardised for learning; `driving.folded` folds that into the
weights of the exported controller.
"""

import functools
import math
from typing import Any, NamedTuple

from clu import metrics
import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from models import controller
import numpy as np
import optax
from trainers.control import entropy
from trainers.control import exploration
from trainers.control import networks
from trainers.control import replay

_TEMPERATURE_LEARNING_RATE_FACTOR = 3.0


@flax.struct.dataclass
class State:
  """Everything that an update changes.

  Attributes:
    updates: number of updates, int32 [].
    key: random key of all updates, as uint32 [2].
    actor: parameters of the actor.
    average: moving average of `actor`, which is deployed.
    critics: parameters of the two critics.
    targets: moving averages of `critics`.
    log_temperature: float32 [].
    optimizers: states of the optimizers of actor, critics and temperature.
    feature_mean: mean of the features, float32 [F].
    feature_std: their standard deviation, float32 [F].
  """

  updates: jax.Array
  key: jax.Array
  actor: Any
  average: Any
  critics: Any
  targets: Any
  log_temperature: jax.Array
  optimizers: Any
  feature_mean: jax.Array
  feature_std: jax.Array


@flax.struct.dataclass
class Metrics(metrics.Collection):
  """Means over updates.

  Attributes:
    loss: squared error of both critics.
    value: value of the actions that were taken, in scaled rewards.
    entropy: of the squashed actions, nats.
    temperature: weight of the entropy.
    learning_rate: of the networks.
  """

  loss: metrics.Average.from_output('loss')  # pyright: ignore
  value: metrics.Average.from_output('value')  # pyright: ignore
  entropy: metrics.Average.from_output('entropy')  # pyright: ignore
  temperature: metrics.Average.from_output('temperature')  # pyright: ignore
  learning_rate: metrics.Average.from_output('learning_rate')  # pyright: ignore


def create(
  config: ml_collections.ConfigDict, num_features: int, num_privileged: int
) -> State:
  """Returns the state before the first update.

  Args:
    config: see `trainers/configs/controller.py`.
    num_features: F, inputs of the controller.
    num_privileged: numbers that describe the simulator's state.
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
  log_temperature = jnp.asarray(
    math.log(config.initial_temperature), jnp.float32
  )
  state = State(
    updates=jnp.zeros((), jnp.int32),
    key=jax.random.key_data(keys[3]),
    actor=actor,
    average=actor,
    critics=critics,
    targets=critics,
    log_temperature=log_temperature,
    optimizers=tuple(
      _optimizer(config).init(x) for x in (actor, critics, log_temperature)
    ),
    feature_mean=jnp.zeros(num_features),
    feature_std=jnp.ones(num_features),
  )
  # `update` donates the state, and a buffer cannot be donated twice.
  return jax.tree.map(jnp.copy, state)


def standardise(state: State, features: np.ndarray) -> State:
  """Takes mean and deviation of the features from examples, [..., F]."""
  mean, std = jax.device_put(
    exploration.moments(features), state.feature_mean.sharding
  )
  return state.replace(feature_mean=mean, feature_std=std)


class Policy(NamedTuple):
  """The part of a state that acts.

  Attributes:
    actor: parameters of the actor.
    feature_mean: float32 [F].
    feature_std: float32 [F].
  """

  actor: Any
  feature_mean: jax.Array
  feature_std: jax.Array


def policy(state: State) -> Policy:
  """Returns a copy of what acts, which survives the next update."""
  parts = Policy(state.actor, state.feature_mean, state.feature_std)
  return jax.tree.map(jnp.copy, parts)


def act(policy: Policy, features: jax.Array, noise: jax.Array) -> jax.Array:
  """Draws actions, float32 [B, 3] in −1..1.

  Args:
    policy: the actor.
    features: not standardised, float32 [B, F].
    noise: standard normal, float32 [B, 3].
  """
  gaussian = _gaussian(policy.actor, _standardised(policy, features))
  action, _ = gaussian.sample(noise)
  return action


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def update(
  config: ml_collections.FrozenConfigDict, state: State, batches: replay.Batch
) -> tuple[State, Metrics]:
  """Takes one update of all parameters with each of U batches.

  Args:
    config: see `trainers/configs/controller.py`.
    state: state before the updates; donated.
    batches: [U, B, ...].
  """

  def step(carry, batch):
    state, collected = carry
    state, of_update = update_once(config, state, batch)
    return (state, collected.merge(of_update)), None

  (state, collected), _ = jax.lax.scan(step, (state, Metrics.empty()), batches)
  return state, collected


def update_once(
  config: ml_collections.FrozenConfigDict, state: State, batch: replay.Batch
) -> tuple[State, Metrics]:
  """Takes one update of all parameters."""
  key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.updates)
  noise = jax.random.normal(key, (2, *batch.action.shape))
  batch = jax.tree.map(lambda x: x.astype(jnp.float32), batch)
  features = _standardised(state, batch.features)
  inputs = batch.privileged if config.privileged_critics else features
  temperature = jnp.exp(state.log_temperature)
  target = critic_target(config, state, batch, noise[0])

  def critic_loss(critics):
    values = _values(config, critics, inputs, batch.action)
    errors = jnp.square(values - target[None]).sum(0)
    return jnp.mean(errors * batch.weight), values.mean()

  def actor_loss(actor, critics):
    action, log_prob = _gaussian(actor, features).sample(noise[1])
    value = _values(config, critics, inputs, action).min(0)
    return jnp.mean(temperature * log_prob - value), log_prob.mean()

  optimizer = _optimizer(config)
  of_actor, of_critics, of_temperature = state.optimizers
  (loss, value), gradients = jax.value_and_grad(critic_loss, has_aux=True)(
    state.critics
  )
  updates, of_critics = optimizer.update(gradients, of_critics)
  critics = optax.apply_updates(state.critics, updates)
  gradients, log_prob = jax.grad(actor_loss, has_aux=True)(state.actor, critics)
  updates, of_actor = optimizer.update(gradients, of_actor)
  actor = optax.apply_updates(state.actor, updates)
  gradient = entropy.gradient(
    state.log_temperature, log_prob, config.target_entropy
  )
  update, of_temperature = optimizer.update(gradient, of_temperature)
  log_temperature = entropy.bounded(
    state.log_temperature + _TEMPERATURE_LEARNING_RATE_FACTOR * update
  )
  of_update = Metrics.single_from_model_output(
    loss=loss,
    value=value,
    entropy=-log_prob,
    temperature=temperature,
    learning_rate=jnp.asarray(learning_rate(config)(state.updates)),
  )
  state = state.replace(
    updates=state.updates + 1,
    actor=actor,
    average=optax.incremental_update(
      actor, state.average, 1 - config.ema_decay
    ),
    critics=critics,
    targets=optax.incremental_update(
      critics, state.targets, 1 - config.target_ema_decay
    ),
    log_temperature=log_temperature,
    optimizers=(of_actor, of_critics, of_temperature),
  )
  return state, of_update


def critic_target(
  config: ml_collections.FrozenConfigDict,
  state: State,
  batch: replay.Batch,
  noise: jax.Array,
) -> jax.Array:
  """Returns the regression targets of the critics: rewards plus later values.

  Args:
    config: see `trainers/configs/controller.py`.
    state: state with actor, targets and temperature.
    batch: transitions, float32 [B, ...].
    noise: standard normal for the next action, float32 [B, 3].

  Returns:
    float32 [B], in scaled rewards.
  """
  features = _standardised(state, batch.next_features)
  inputs = batch.next_privileged if config.privileged_critics else features
  action, log_prob = _gaussian(state.actor, features).sample(noise)
  value = _values(config, state.targets, inputs, action).min(0)
  value -= jnp.exp(state.log_temperature) * log_prob
  reward = config.reward_scale * jnp.asarray(batch.reward)
  return reward + jnp.asarray(batch.discount) * value


def learning_rate(config: ml_collections.FrozenConfigDict) -> optax.Schedule:
  """Returns the learning rate by number of updates."""
  if not config.cosine_decay:
    return optax.constant_schedule(config.learning_rate)
  steps = max(config.num_steps - config.warmup_steps, 1)
  updates = steps * config.updates_per_step
  return optax.cosine_decay_schedule(config.learning_rate, updates)


def _optimizer(config: Any) -> optax.GradientTransformation:
  return optax.adam(learning_rate(config))


def _gaussian(actor: Any, features: jax.Array) -> networks.Gaussian:
  return networks.Actor().apply({'params': actor}, features)  # pyright: ignore


def _standardised(state: State | Policy, features: jax.Array) -> jax.Array:
  centered = features - state.feature_mean[None]
  return centered / state.feature_std[None]


def _values(
  config: Any, critics: Any, inputs: jax.Array, action: jax.Array
) -> jax.Array:
  """Returns the values of both critics, float32 [2, B]."""
  critic = networks.Critic(config.critic_size)
  inputs = jnp.concatenate([inputs, action], axis=-1)
  return jnp.stack(
    [critic.apply({'params': x}, inputs) for x in critics]  # pyright: ignore
  )
