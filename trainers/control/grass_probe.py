"""The grass beside the car, as V shows it: z → share of grass.

A car that leaves the road earns nothing for a while, a weak and delayed signal.
Grass on both sides of it is visible at once, without the simulator's state. But
decoding every dreamt step would take most of the time. So a small network
learns, once, what V's pictures of some latent vectors show.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from models import start_states
from models import world_model
import optax

# Rows and columns of a frame: the car, and what is at its left and right.
_ROWS, _CAR = slice(50, 58), slice(30, 34)
_LEFT, _RIGHT = slice(26, 30), slice(35, 39)
# Least red of the car. While the camera zooms in, for the first 35 steps, the
# car is smaller, and what is beside it in a frame is far from it.
_RED = 0.14
_GREEN = 0.4  # Of the game's grass: green above the mean of red and blue.
_HIDDEN_SIZE = 64
_NUM_EXAMPLES, _DECODED_AT_ONCE = 4096, 256
_NUM_UPDATES, _BATCH_SIZE, _LEARNING_RATE = 3000, 256, 3e-3


class _Network(nn.Module):
  """Returns logits of the share of grass, float32 [...]."""

  @nn.compact
  def __call__(self, z: jax.Array) -> jax.Array:
    hidden = nn.silu(nn.Dense(_HIDDEN_SIZE)(z))
    return nn.Dense(1)(hidden)[..., 0]


def beside_car(frames: jax.Array) -> jax.Array:
  """Returns how much of the less green side of the car is grass, float32 [B].

  It is 0..1; 0 if one side is on the road, or while the camera zooms in. The
  frames are float32 [B, 64, 64, 3], 0..1.
  """
  red, green, blue = jnp.moveaxis(frames, -1, 0)
  grass = jnp.clip((green - (red + blue) / 2) / _GREEN, 0, 1)
  sides = [grass[:, _ROWS, side].mean((1, 2)) for side in (_LEFT, _RIGHT)]
  car = jnp.clip(red - jnp.maximum(green, blue), 0, 1)[:, _ROWS, _CAR]
  return jnp.where(car.mean((1, 2)) > _RED, jnp.minimum(*sides), 0)


def create(latent_size: int, seed: int) -> Any:
  """Returns the parameters of the network before it is fitted."""
  z = jnp.zeros((1, latent_size))
  return _Network().init(jax.random.fold_in(jax.random.key(seed), 0), z)


def fit(
  model: world_model.WorldModel, starts: start_states.StartStates, seed: int
) -> Any:
  """Fits a network that predicts the share of grass from latent vectors.

  It learns from the z of start states, decoded by V; M is not used.

  Returns:
    Parameters, see `share`.
  """
  start_key, fit_key = jax.random.split(jax.random.key(seed))
  z = start_states.draw(starts, _NUM_EXAMPLES, start_key).z
  parts = jnp.split(z, len(z) // _DECODED_AT_ONCE)
  target = jnp.concatenate([_shown(model, part) for part in parts])
  return _fit(create(z.shape[-1], seed), z, target, fit_key)


def share(params: Any, z: jax.Array) -> jax.Array:
  """Returns the share of grass, see `beside_car`, float32 [...], 0..1.

  The parameters are from `fit`; latent vectors are float32 [..., Z].
  """
  logits = _Network().apply(params, z)
  return nn.sigmoid(logits)  # pyright: ignore


@jax.jit
def _shown(model: world_model.WorldModel, z: jax.Array) -> jax.Array:
  return beside_car(world_model.decode(model, z))


@jax.jit
def _fit(params: Any, z: jax.Array, target: jax.Array, key: jax.Array) -> Any:
  optimizer = optax.adam(
    optax.cosine_decay_schedule(_LEARNING_RATE, _NUM_UPDATES)
  )

  def loss(params, batch):
    logits = _Network().apply(params, z[batch])
    return optax.sigmoid_binary_cross_entropy(logits, target[batch]).mean()

  def update(carry, key):
    params, state = carry
    batch = jax.random.randint(key, (_BATCH_SIZE,), 0, len(z))
    updates, state = optimizer.update(jax.grad(loss)(params, batch), state)
    return (optax.apply_updates(params, updates), state), None

  carry = params, optimizer.init(params)
  (params, _), _ = jax.lax.scan(
    update, carry, jax.random.split(key, _NUM_UPDATES)
  )
  return params
