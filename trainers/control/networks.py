"""Networks of actor-critic methods: actor and critic."""

from collections.abc import Callable
import math
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
from models import controller

# Steering, gas and brake before `tanh`: straight on, 60 % gas, no brake.
INITIAL_BIAS = (0.0, 0.2, -0.5)
INITIAL_LOG_STD = -0.5  # Logarithm of its standard deviation before `tanh`.
_MIN_LOG_STD, _MAX_LOG_STD = -4.0, 0.5


class Actor(nn.Module):
  """A Gaussian before `tanh` whose mean and log deviation are linear."""

  @nn.compact
  def __call__(self, features: jax.Array) -> 'Gaussian':
    """Takes standardised features, float32 [..., F]."""
    zeros = nn.initializers.zeros
    mean = nn.Dense(
      controller.ACTION_SIZE,
      kernel_init=zeros,
      bias_init=lambda *_: jnp.array(INITIAL_BIAS),
      name='mean',
    )(features)
    log_std = nn.Dense(
      controller.ACTION_SIZE,
      kernel_init=zeros,
      bias_init=nn.initializers.constant(INITIAL_LOG_STD),
      name='log_std',
    )(features)
    return Gaussian(mean, jnp.clip(log_std, _MIN_LOG_STD, _MAX_LOG_STD))


class Gaussian(NamedTuple):
  """Gaussians that `tanh` squashes to −1..1.

  Attributes:
    mean: before `tanh`, float32 [..., 3].
    log_std: logarithm of the standard deviation before it, float32 [..., 3].
  """

  mean: jax.Array
  log_std: jax.Array

  def sample(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws actions with standard normal noise, float32 [..., 3].

    Returns:
      Actions, float32 [..., 3] in −1..1, and their log densities, float32
      [...], nats.
    """
    x = self.mean + jnp.exp(self.log_std) * noise
    log_prob = -0.5 * noise**2 - self.log_std - 0.5 * math.log(2 * math.pi)
    # log(1 − tanh²(x)), stable for large |x|.
    log_slope = 2 * (math.log(2) - x - jax.nn.softplus(-2 * x))
    return jnp.tanh(x), (log_prob - log_slope).sum(-1)


class Critic(nn.Module):
  """Values: two hidden layers with layer normalisation.

  Attributes:
    hidden_size: units of a hidden layer.
    activation: nonlinearity of the hidden layers.
  """

  hidden_size: int
  activation: Callable[[jax.Array], jax.Array] = nn.relu

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Returns the values, float32 [...], of what it sees, float32 [..., S]."""
    x = inputs
    for _ in range(2):
      x = nn.Dense(self.hidden_size, kernel_init=nn.initializers.he_normal())(x)
      x = nn.LayerNorm(epsilon=1e-5, use_scale=False, use_bias=False)(x)
      x = self.activation(x)
    return nn.Dense(1, kernel_init=nn.initializers.normal(0.01))(x)[..., 0]
