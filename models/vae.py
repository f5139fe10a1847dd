"""V, a convolutional VAE: 64×64 frames ⇄ latent vectors of size 32.

Ha & Schmidhuber, "World Models" (2018), appendix "Variational Autoencoder".
"""

import functools
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from models import strided_convolution


class Posterior(NamedTuple):
  """A diagonal Gaussian over latent vectors, N(mean, exp(logvar)).

  Attributes:
    mean: float32 [..., Z].
    logvar: float32 [..., Z].
  """

  mean: jax.Array
  logvar: jax.Array

  def sample(self, key: jax.Array) -> jax.Array:
    """Draws one latent vector from each distribution, float32 [..., Z]."""
    noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
    return self.mean + jnp.exp(self.logvar / 2) * noise

  def kl(self) -> jax.Array:
    """Returns KL(posterior || N(0, 1)) of each dimension, [..., Z] in nats."""
    return (jnp.exp(self.logvar) + self.mean**2 - 1 - self.logvar) / 2


class Encoder(nn.Module):
  """Float frames [B, 64, 64, 3] → the posterior of their latents [B, Z]."""

  latent_size: int
  dtype: DTypeLike = jnp.float32
  convolution: strided_convolution.Form = 'auto'

  @nn.compact
  def __call__(self, x: jax.Array) -> Posterior:
    conv = functools.partial(
      nn.Conv,
      kernel_size=(4, 4),
      strides=2,
      padding='VALID',
      dtype=self.dtype,
      conv_general_dilated_cls=lambda: strided_convolution.conv_general_dilated(
        self.convolution
      ),
    )
    for features in (32, 64, 128, 256):
      x = nn.relu(conv(features)(x))
    x = x.reshape(len(x), 1024).astype(jnp.float32)
    return Posterior(
      mean=nn.Dense(self.latent_size, name='mean')(x),
      logvar=nn.Dense(self.latent_size, name='logvar')(x),
    )


class Decoder(nn.Module):
  """Latent vectors [B, Z] → float frames [B, 64, 64, 3] in 0..1."""

  dtype: DTypeLike = jnp.float32
  convolution: strided_convolution.Form = 'auto'

  @nn.compact
  def __call__(self, z: jax.Array) -> jax.Array:
    x = nn.Dense(1024)(z).reshape(len(z), 1, 1, 1024)
    conv_transpose = functools.partial(
      strided_convolution.ConvTranspose, dtype=self.dtype, form=self.convolution
    )
    for features, size in ((128, 5), (64, 5), (32, 6)):
      x = nn.relu(conv_transpose(features, size)(x))
    x = conv_transpose(3, 6)(x)
    return nn.sigmoid(x.astype(jnp.float32))


class VAE(nn.Module):
  """Encoder and decoder of uint8 frames; 4,348,547 parameters with Z = 32.

  Attributes:
    latent_size: Z, size of a latent vector.
    dtype: dtype of the convolutions; bfloat16 is faster on GPUs and TPUs.
      Parameters, posteriors and frames are always float32.
    convolution: form of the convolutions, see `strided_convolution`; 'auto' is
      the faster one on each platform. All forms have the same parameters.
  """

  latent_size: int = 32
  dtype: DTypeLike = jnp.float32
  convolution: strided_convolution.Form = 'auto'

  def setup(self):
    self.encoder = Encoder(self.latent_size, self.dtype, self.convolution)
    self.decoder = Decoder(self.dtype, self.convolution)

  def encode(self, observation: jax.Array) -> Posterior:
    """Encodes uint8 [B, 64, 64, 3], 0..255, to posteriors [B, Z]."""
    return self.encoder(to_float(observation))

  def decode(self, z: jax.Array) -> jax.Array:
    """Decodes float32 [B, Z] to float32 [B, 64, 64, 3] in 0..1."""
    return self.decoder(z)

  def __call__(
    self, observation: jax.Array, key: jax.Array
  ) -> tuple[jax.Array, Posterior]:
    """Reconstructs frames from latents sampled from their posterior.

    Args:
      observation: uint8 [B, 64, 64, 3], 0..255.
      key: random key for sampling the latents.

    Returns:
      The reconstruction, float32 [B, 64, 64, 3] in 0..1, and the posterior.
    """
    posterior = self.encode(observation)
    return self.decode(posterior.sample(key)), posterior


# By the name that weights record and `--config.architecture` chooses. Another
# VAE has the arguments and methods of this one, and a name of its own.
ARCHITECTURES = {'paper': VAE}


class Loss(NamedTuple):
  """The loss of each frame and its two terms, each float32 [B].

  Attributes:
    total: loss to minimise.
    reconstruction: squared error, summed over the frame's pixels in 0..1.
    kl: KL(posterior || N(0, 1)), nats.
  """

  total: jax.Array
  reconstruction: jax.Array
  kl: jax.Array


def loss(
  reconstruction: jax.Array,
  posterior: Posterior,
  observation: jax.Array,
  *,
  free_nats: float = 0.5,
  kl_weight: float = 1.0,
) -> Loss:
  """Returns the loss of each frame; defaults of the reference implementation.

  Args:
    reconstruction: float32 [B, 64, 64, 3] in 0..1.
    posterior: posterior of the latents, [B, Z].
    observation: true frames, uint8 [B, 64, 64, 3], 0..255.
    free_nats: free KL per latent dimension, nats (0.5 in the reference
      implementation). Below Z times this value, the summed KL has no gradient,
      so the posterior cannot collapse; the KL mostly ends just above.
    kl_weight: weight of the KL, the β of a β-VAE.

  Returns:
    The loss and its terms.
  """
  squared_error = (reconstruction - to_float(observation)) ** 2
  squared_error = squared_error.sum((1, 2, 3))
  kl = posterior.kl().sum(-1)
  free = free_nats * posterior.mean.shape[-1]
  total = squared_error + kl_weight * jnp.maximum(kl, free)
  return Loss(total, squared_error, kl)


def to_float(observation: jax.Array) -> jax.Array:
  """Converts uint8 0..255 to float32 0..1."""
  return observation.astype(jnp.float32) / 255


def to_uint8(image: jax.Array) -> jax.Array:
  """Converts float32 0..1 to uint8 0..255."""
  return jnp.round(jnp.clip(image, 0, 1) * 255).astype(jnp.uint8)
