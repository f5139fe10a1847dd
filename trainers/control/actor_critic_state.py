"""The state of actor-critic methods, and what their updates have in common.

Both methods keep moving averages of actor and critics, and tune the entropy's
weight to a target: Haarnoja et al., "Soft Actor-Critic Algorithms and
Applications" (2018).
"""

from collections.abc import Callable, Sequence
import math
from typing import Any

from clu import metrics
import flax.struct
import jax
import jax.numpy as jnp
import optax
from trainers.configs import controller as controller_config
from trainers.configs import controller_dream
from trainers.control import standardisation

Config = controller_config.Config | controller_dream.Config

_MIN_ENTROPY_WEIGHT, _MAX_ENTROPY_WEIGHT = 1e-4, 1.0


@flax.struct.dataclass
class TrainState:
  """Everything that an update changes.

  Attributes:
    updates: number of updates, int32 [].
    key: random key of all updates, as uint32 [2].
    actor: parameters of the actor.
    average: moving average of `actor`, which is deployed.
    critics: parameters of the critic, or a tuple of those of several.
    targets: moving averages of `critics`.
    log_entropy_weight: logarithm of the entropy's weight, float32 [].
    optimizers: states of the optimizers of actor, critics and entropy weight.
    moments: `standardisation.Moments` of the features; None if they are not
      measured in training.
  """

  updates: jax.Array
  key: jax.Array
  actor: Any
  average: Any
  critics: Any
  targets: Any
  log_entropy_weight: jax.Array
  optimizers: Any
  moments: Any


def create(
  config: Config,
  key: jax.Array,
  actor: Any,
  critics: Any,
  optimizers: Sequence[optax.GradientTransformation],
  moments: standardisation.Moments | None = None,
) -> TrainState:
  """Returns the state before the first update; see `TrainState`.

  The optimizers are of actor, critics and entropy weight, which begins as
  `config.initial_temperature`.
  """
  log_weight = jnp.asarray(math.log(config.initial_temperature), jnp.float32)
  params = actor, critics, log_weight
  state = TrainState(
    updates=jnp.zeros((), jnp.int32),
    key=jax.random.key_data(key),
    actor=actor,
    average=actor,
    critics=critics,
    targets=critics,
    log_entropy_weight=log_weight,
    optimizers=tuple(
      optimizer.init(x) for optimizer, x in zip(optimizers, params)
    ),
    moments=moments,
  )
  # Updates donate the state, and a buffer cannot be donated twice.
  return jax.tree.map(jnp.copy, state)


def update(
  update_once: Callable[[TrainState, Any], tuple[TrainState, Any]],
  state: TrainState,
  metrics_class: type[metrics.Collection],
  batches: Any = None,
  length: int | None = None,
) -> tuple[TrainState, metrics.Collection]:
  """Takes U updates; returns the state after them and their metrics, merged.

  `update_once` gets one of the batches, [U, ...], after the other; or None, U
  times by `length`, if there are none.
  """

  def step(carry, batch):
    state, collected = carry
    state, of_update = update_once(state, batch)
    return (state, collected.merge(of_update)), None

  carry = state, metrics_class.empty()
  return jax.lax.scan(step, carry, batches, length)[0]


def updated(
  config: Config,
  state: TrainState,
  actor: Any,
  critics: Any,
  log_entropy_weight: jax.Array,
  optimizers: tuple[Any, ...],
) -> TrainState:
  """Returns the state after an update: the averages follow what has changed.

  They decay by `ema_decay` and `target_ema_decay`; the entropy's weight is kept
  in 1e-4..1. The parameters and the optimizers' states are those after it.
  """
  return state.replace(
    updates=state.updates + 1,
    actor=actor,
    average=optax.incremental_update(
      actor, state.average, 1 - config.ema_decay
    ),
    critics=critics,
    targets=optax.incremental_update(
      critics, state.targets, 1 - config.target_ema_decay
    ),
    log_entropy_weight=jnp.clip(
      log_entropy_weight,
      math.log(_MIN_ENTROPY_WEIGHT),
      math.log(_MAX_ENTROPY_WEIGHT),
    ),
    optimizers=optimizers,
  )
