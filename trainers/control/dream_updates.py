"""Actor-critic in the dream: the gradients of imagined returns, through M.

Hafner et al., "Dream to Control: Learning Behaviors by Latent Imagination"
(2020): rollouts are imagined from real states, a critic estimates the value of
what follows them, and the actor climbs the gradient of their λ-returns. The
critic sees all that a dream consists of: z and M's carry. The weight of the
entropy is tuned to a target, as in soft actor-critic.
"""

from collections.abc import Mapping
import functools
import math
from typing import Any

from clu import metrics
from flax import linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from models import controller
from models import start_states
from models import world_model
import optax
from trainers.control import dreaming
from trainers.control import entropy
from trainers.control import networks

_TEMPERATURE_LEARNING_RATE = 3e-3
_MAX_ACTOR_GRADIENT_NORM, _MAX_CRITIC_GRADIENT_NORM = 1.0, 10.0
_LAST_LEARNING_RATE = 0.1  # Of the actor, as a share of the first one.


@flax.struct.dataclass
class State:
  """Everything that an update changes.

  Attributes:
    updates: number of updates, int32 [].
    key: random key of all updates, as uint32 [2].
    actor: parameters of the actor.
    average: moving average of `actor`, which is deployed.
    critic: parameters of the critic.
    target: moving average of `critic`.
    log_temperature: logarithm of the weight of the entropy, float32 [].
    optimizers: states of the optimizers of actor, critic and temperature.
  """

  updates: jax.Array
  key: jax.Array
  actor: Any
  average: Any
  critic: Any
  target: Any
  log_temperature: jax.Array
  optimizers: Any


@flax.struct.dataclass
class Metrics(metrics.Collection):
  """Means over updates.

  Attributes:
    loss: squared error of the critic.
    value: λ-returns, in scaled rewards.
    reward: expected reward of a step, without penalties.
    entropy: of the squashed actions, nats.
    temperature: weight of the entropy.
    gradient_norm: norm of the actor's gradient before it is clipped.
    learning_rate: of the actor.
  """

  loss: metrics.Average.from_output('loss')  # pyright: ignore
  value: metrics.Average.from_output('value')  # pyright: ignore
  reward: metrics.Average.from_output('reward')  # pyright: ignore
  entropy: metrics.Average.from_output('entropy')  # pyright: ignore
  temperature: metrics.Average.from_output('temperature')  # pyright: ignore
  gradient_norm: metrics.Average.from_output('gradient_norm')  # pyright: ignore
  learning_rate: metrics.Average.from_output('learning_rate')  # pyright: ignore


def create(
  config: ml_collections.ConfigDict,
  num_features: int,
  num_inputs: int,
  mean_layer: Mapping[str, Any] | None = None,
) -> State:
  """Returns the state before the first update.

  Args:
    config: see `trainers/configs/controller_dream.py`.
    num_features: F, inputs of the controller.
    num_inputs: Z + 2·H, inputs of the critic.
    mean_layer: the actor's layer of the means to begin with; None: untrained.
  """
  keys = jax.random.split(jax.random.key(config.seed), 3)
  actor = networks.Actor().init(keys[0], jnp.zeros((1, num_features)))['params']
  if mean_layer is not None:
    actor = {**actor, 'mean': mean_layer}
  critic = _critic(config).init(keys[1], jnp.zeros((1, num_inputs)))['params']
  log_temperature = jnp.asarray(
    math.log(config.initial_temperature), jnp.float32
  )
  params = actor, critic, log_temperature
  state = State(
    updates=jnp.zeros((), jnp.int32),
    key=jax.random.key_data(keys[2]),
    actor=actor,
    average=actor,
    critic=critic,
    target=critic,
    log_temperature=log_temperature,
    optimizers=tuple(
      optimizer.init(x) for optimizer, x in zip(_optimizers(config), params)
    ),
  )
  # `update` donates the state, and a buffer cannot be donated twice.
  return jax.tree.map(jnp.copy, state)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def update(
  config: ml_collections.FrozenConfigDict,
  c: controller.Controller,
  state: State,
  world: dreaming.DreamWorld,
  starts: start_states.StartStates,
) -> tuple[State, Metrics]:
  """Takes `updates_per_step` updates of all parameters.

  Args:
    config: see `trainers/configs/controller_dream.py`.
    c: controller whose features the actor sees.
    state: state before the updates; donated.
    world: V and M, moments and the network of `grass`.
    starts: states from which dreams start.
  """

  def step(carry, _):
    state, collected = carry
    state, of_update = update_once(config, c, state, world, starts)
    return (state, collected.merge(of_update)), None

  (state, collected), _ = jax.lax.scan(
    step, (state, Metrics.empty()), length=config.updates_per_step
  )
  return state, collected


def update_once(
  config: ml_collections.FrozenConfigDict,
  c: controller.Controller,
  state: State,
  world: dreaming.DreamWorld,
  starts: start_states.StartStates,
) -> tuple[State, Metrics]:
  """Takes one update of all parameters; see `update`."""
  key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.updates)
  start_key, dream_key = jax.random.split(key)
  start = start_states.draw(starts, config.num_dreams, start_key)
  temperature = jnp.exp(state.log_temperature)

  def actor_loss(actor):
    dreamt = dreaming.imagine(config, c, world, actor, start, dream_key)
    value = _value(config, state.target, world.moments, dreamt.state)
    returns = dreaming.lambda_returns(
      config.reward_scale * dreamt.shaped_reward,
      value,
      config.discount,
      config.trace_decay,
    )
    loss = temperature * dreamt.log_prob.mean() - returns.mean()
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
    state.critic, before, returns
  )
  of_temperature = entropy.gradient(
    state.log_temperature, dreamt.log_prob.mean(), config.target_entropy
  )
  params, optimizers = [], []
  for optimizer, of_optimizer, gradients, x in zip(
    _optimizers(config),
    state.optimizers,
    (gradient, of_critic, of_temperature),
    (state.actor, state.critic, state.log_temperature),
  ):
    updates, of_optimizer = optimizer.update(gradients, of_optimizer)
    params.append(optax.apply_updates(x, updates))
    optimizers.append(of_optimizer)
  actor, critic, log_temperature = params
  of_update = Metrics.single_from_model_output(
    loss=loss,
    value=returns.mean(),
    reward=dreamt.reward.mean(),
    entropy=-dreamt.log_prob.mean(),
    temperature=temperature,
    gradient_norm=optax.tree.norm(gradient),
    learning_rate=jnp.asarray(learning_rate(config)(state.updates)),
  )
  state = state.replace(
    updates=state.updates + 1,
    actor=actor,
    average=optax.incremental_update(
      actor, state.average, 1 - config.ema_decay
    ),
    critic=critic,
    target=optax.incremental_update(
      critic, state.target, 1 - config.target_ema_decay
    ),
    log_temperature=entropy.bounded(log_temperature),
    optimizers=tuple(optimizers),
  )
  return state, of_update


def learning_rate(config: ml_collections.FrozenConfigDict) -> optax.Schedule:
  """Returns the learning rate of the actor by number of updates."""
  return optax.cosine_decay_schedule(
    config.learning_rate,
    config.num_steps * config.updates_per_step,
    _LAST_LEARNING_RATE,
  )


def _optimizers(config: Any) -> tuple[optax.GradientTransformation, ...]:
  """Returns the optimizers of actor, critic and temperature."""
  return (
    optax.chain(
      optax.clip_by_global_norm(_MAX_ACTOR_GRADIENT_NORM),
      optax.adam(learning_rate(config)),
    ),
    optax.chain(
      optax.clip_by_global_norm(_MAX_CRITIC_GRADIENT_NORM),
      optax.adam(config.critic_learning_rate),
    ),
    optax.adam(_TEMPERATURE_LEARNING_RATE),
  )


def _critic(config: Any) -> networks.Critic:
  # Gradients flow through it to the actor, so it has to be smooth.
  return networks.Critic(config.critic_size, nn.silu)


def _value(
  config: Any, critic: Any, moments: dreaming.Moments, state: world_model.State
) -> jax.Array:
  """Returns the values of states, float32 [...], in scaled rewards."""
  cell, hidden = state.carry
  inputs = jnp.concatenate([state.z, hidden, cell], axis=-1)
  return _critic(config).apply(  # pyright: ignore
    {'params': critic}, dreaming.standardised(moments, inputs)
  )
