"""The weight of the entropy, the *temperature*, tuned to a target entropy.

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications" (2018).
"""

import math

import jax
import jax.numpy as jnp

_MIN_TEMPERATURE, _MAX_TEMPERATURE = 1e-4, 1.0


def gradient(
  log_temperature: jax.Array, log_prob: jax.Array, target_entropy: float
) -> jax.Array:
  """Returns the gradient that raises the temperature if entropy is missing.

  Args:
    log_temperature: logarithm of the temperature, float32 [].
    log_prob: mean log density of the actions, float32 [], nats.
    target_entropy: nats.
  """

  def loss(log_temperature):
    return -log_temperature * (log_prob + target_entropy)

  return jax.grad(loss)(log_temperature)


def bounded(log_temperature: jax.Array) -> jax.Array:
  """Keeps the temperature in 1e-4..1; takes and returns its logarithm."""
  return jnp.clip(
    log_temperature, math.log(_MIN_TEMPERATURE), math.log(_MAX_TEMPERATURE)
  )
