"""Adam, its learning rate, and the gradient step that updates parameters."""

from collections.abc import Callable, Mapping
from typing import Any

from flax.training import train_state
import jax
import jax.numpy as jnp
import optax
from trainers import training_log
from trainers.configs import base

TrainState = train_state.TrainState

# Metrics of a step; see `take_step`.
METRICS = training_log.averages('gradient_norm', 'update_norm', 'learning_rate')


def create_train_state(
  config: base.SupervisedConfig, params: Any
) -> TrainState:
  """Returns the train state before the first step; see `take_step`."""
  clip = optax.identity()
  if config.max_gradient_norm:
    clip = optax.clip_by_global_norm(config.max_gradient_norm)
  optimizer = optax.chain(clip, optax.adam(learning_rate(config)))
  return TrainState.create(apply_fn=None, params=params, tx=optimizer)


def take_step(
  config: base.SupervisedConfig,
  state: TrainState,
  loss: Callable[[Any], tuple[jax.Array, Any]],
) -> tuple[TrainState, Any, Mapping[str, jax.Array]]:
  """Takes one gradient step with Adam.

  Args:
    config: config with `learning_rate`, `warmup_steps` (capped at half of
      `num_steps`), `cosine_decay`, `num_steps` and `max_gradient_norm` (0: no
      clipping).
    state: train state before the step.
    loss: function parameters → (loss, other outputs); the loss is a scalar.

  Returns:
    The train state after the step; the other outputs; and scalar metrics: the
    norm of the gradient before clipping, the norm of the update, and the
    learning rate.
  """
  gradients, outputs = jax.grad(loss, has_aux=True)(state.params)
  updates, opt_state = state.tx.update(gradients, state.opt_state, state.params)
  of_step = {
    'gradient_norm': optax.tree.norm(gradients),
    'update_norm': optax.tree.norm(updates),
    'learning_rate': jnp.asarray(learning_rate(config)(state.step)),
  }
  state = state.replace(
    step=state.step + 1,
    params=optax.apply_updates(state.params, updates),
    opt_state=opt_state,
  )
  return state, outputs, of_step


def learning_rate(config: base.SupervisedConfig) -> optax.Schedule:
  """Returns the learning rate schedule: warm-up, then constant or cosine."""
  warmup_steps = min(config.warmup_steps, config.num_steps // 2)
  start = 0.0 if warmup_steps else config.learning_rate
  if config.cosine_decay:
    return optax.warmup_cosine_decay_schedule(
      start, config.learning_rate, warmup_steps, config.num_steps
    )
  return optax.warmup_constant_schedule(
    start, config.learning_rate, warmup_steps
  )
