"""C, the controller: (z, h) → actions.

Ha & Schmidhuber, "World Models" (2018), section 2.3: a single linear layer. It
has 867 numbers for the default sizes: 3 × (32 + 256) weights and 3 biases.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

ACTION_SIZE = 3


class Controller(nn.Module):
  """A linear layer, squashed to the action space.

  Attributes:
    latent_size: Z, size of a latent vector.
    hidden_size: number of units of M's hidden state that C sees; 0 if it sees z
      alone.
  """

  latent_size: int = 32
  hidden_size: int = 256

  @nn.compact
  def __call__(self, z: jax.Array, hidden: jax.Array) -> jax.Array:
    """Chooses actions.

    Args:
      z: latent vectors, float32 [B, Z].
      hidden: M's hidden state before these `z`, float32 [B, H].

    Returns:
      float32 [B, 3]; see `to_action`.
    """
    features = self.features(z, hidden)
    return to_action(jnp.tanh(nn.Dense(ACTION_SIZE, name='linear')(features)))

  @nn.nowrap
  def features(self, z: jax.Array, hidden: jax.Array) -> jax.Array:
    """Returns the inputs of the linear layer, float32 [B, Z + hidden_size]."""
    return jnp.concatenate([z, hidden[..., : self.hidden_size]], axis=-1)


def to_action(x: jax.Array) -> jax.Array:
  """Maps −1..1 to the action space.

  Args:
    x: float32 [..., 3] in −1..1.

  Returns:
    float32 [..., 3]: steering −1..1; gas 0..1, (x + 1) / 2; and brake 0..1,
    max(x, 0).
  """
  steering, gas, brake = jnp.moveaxis(x, -1, 0)
  return jnp.stack([steering, (gas + 1) / 2, jnp.maximum(brake, 0)], axis=-1)


ARCHITECTURES = {'paper': Controller}
