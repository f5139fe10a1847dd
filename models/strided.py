"""Convolutions with stride 2, and their gradients, as matrix products.

XLA for CPU computes the gradients of strided and transposed convolutions many
times slower than the matrix products they come down to. On a CPU the functions
here therefore gather patches, multiply, and add up overlaps, forward and
backward; elsewhere they are the plain `lax` convolutions. Values and gradients
are the same up to rounding.

A kernel of K×K taps and stride 2 becomes one of ⌈K/2⌉×⌈K/2⌉ taps and stride 1
when 2×2 neighbouring pixels are seen as one pixel with four times the channels
(*space to depth*). Tap (2i + a, 2j + b) of the kernel belongs to the neighbour
(i, j) and the channel group (a, b).
"""

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')


class Conv(nn.Module):
  """A convolutional layer with stride 2 and without padding.

  Attributes:
    features: output channels.
    kernel_size: K, even.
  """

  features: int
  kernel_size: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    return conv(x, kernel) + bias.reshape(1, 1, 1, -1)


class ConvTranspose(nn.Module):
  """The transpose of a convolutional layer with stride 2 without padding.

  Attributes:
    features: output channels.
    kernel_size: K.
  """

  features: int
  kernel_size: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (self.kernel_size, self.kernel_size, self.features, x.shape[-1])
    kernel = self.param(
      'kernel', nn.initializers.lecun_normal(in_axis=-1, out_axis=-2), shape
    )
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    return conv_transpose(x, kernel) + bias.reshape(1, 1, 1, -1)


def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves with stride 2 and without padding.

  Args:
    x: float [N, H, W, C].
    kernel: float [K, K, C, O], K even.

  Returns:
    float [N, (H − K) // 2 + 1, (W − K) // 2 + 1, O].
  """
  if jax.default_backend() == 'cpu':
    return _conv(x, kernel)
  return plain_conv(x, kernel)


def conv_transpose(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Applies the transpose of a convolution with stride 2 without padding.

  Every input pixel adds K×K output pixels: y[2p + t] += kernel[t] · x[p].

  Args:
    x: float [N, H, W, C].
    kernel: float [K, K, O, C].

  Returns:
    float [N, 2·H + K − 2, 2·W + K − 2, O].
  """
  if x.shape[1:3] == (1, 1):  # No overlaps: one matrix product everywhere.
    size, _, outputs, inputs = kernel.shape
    y = x.reshape(-1, inputs) @ kernel.reshape(-1, inputs).T
    return y.reshape(-1, size, size, outputs)
  if jax.default_backend() == 'cpu':
    return _conv_transpose(x, kernel)
  return plain_conv_transpose(x, kernel)


def plain_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """As `conv`, by `lax`."""
  return lax.conv_general_dilated(
    x, kernel, (2, 2), 'VALID', dimension_numbers=_LAYOUT
  )


def plain_conv_transpose(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """As `conv_transpose`, by `lax`."""
  return lax.conv_transpose(
    x,
    kernel,
    (2, 2),
    'VALID',
    dimension_numbers=_LAYOUT,
    transpose_kernel=True,
  )


@jax.custom_vjp
def _conv(x, kernel):
  return _conv_forward(x, kernel)[0]


def _conv_forward(x, kernel):
  shape = jnp.zeros((*x.shape[1:3], 0))  # Residuals are arrays: keeps H and W.
  taps = kernel.shape[0] // 2
  # A last row or column that no stride reaches is left out.
  x = _fit(x, *(n // 2 * 2 for n in x.shape[1:3]))
  patches = _patches(_space_to_depth(x), taps)
  y = patches @ _kernel_matrix(kernel)
  return y, (patches, kernel, shape)


def _conv_backward(residuals, dy):
  patches, kernel, shape = residuals
  taps = kernel.shape[0] // 2
  rows = patches.shape[-1]
  dkernel = jnp.matmul(
    patches.reshape(-1, rows).T, dy.reshape(-1, dy.shape[-1])
  )
  dpatches = dy @ _kernel_matrix(kernel).T
  dx = _depth_to_space(_add_patches(dpatches, taps))
  dx = _fit(dx, *shape.shape[:2])
  return dx, _kernel_from_matrix(dkernel, kernel.shape)


_conv.defvjp(_conv_forward, _conv_backward)


@jax.custom_vjp
def _conv_transpose(x, kernel):
  return _conv_transpose_forward(x, kernel)[0]


def _conv_transpose_forward(x, kernel):
  size = kernel.shape[0]
  matrix = _kernel_matrix(_even(kernel))  # [taps² · 4 · O, C]
  added = _add_patches(x @ matrix.T, (size + 1) // 2)
  y = _depth_to_space(added)
  height, width = (2 * n + size - 2 for n in x.shape[1:3])
  return y[:, :height, :width], (x, kernel)


def _conv_transpose_backward(residuals, dy):
  x, kernel = residuals
  even = _even(kernel)
  matrix = _kernel_matrix(even)
  dy = _fit(dy, *(n + n % 2 for n in dy.shape[1:3]))
  patches = _patches(_space_to_depth(dy), even.shape[0] // 2)
  dx = patches @ matrix
  columns = patches.shape[-1]
  dmatrix = patches.reshape(-1, columns).T @ x.reshape(-1, x.shape[-1])
  size = kernel.shape[0]
  return dx, _kernel_from_matrix(dmatrix, even.shape)[:size, :size]


_conv_transpose.defvjp(_conv_transpose_forward, _conv_transpose_backward)


def _space_to_depth(x):
  """[N, 2·H, 2·W, C] → [N, H, W, 4·C], channels ordered (a, b, c)."""
  n, height, width, channels = x.shape
  x = x.reshape(n, height // 2, 2, width // 2, 2, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(n, height // 2, width // 2, 4 * channels)


def _depth_to_space(x):
  """The inverse of `_space_to_depth`."""
  n, height, width, channels = x.shape
  x = x.reshape(n, height, width, 2, 2, channels // 4)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(n, 2 * height, 2 * width, channels // 4)


def _patches(x, taps):
  """[N, H, W, C] → [N, H − taps + 1, W − taps + 1, taps² · C]."""
  height, width = (n - taps + 1 for n in x.shape[1:3])
  return jnp.concatenate(
    [
      x[:, i : i + height, j : j + width]
      for i in range(taps)
      for j in range(taps)
    ],
    axis=-1,
  )


def _add_patches(patches, taps):
  """The transpose of `_patches`: adds up what overlaps."""
  parts = jnp.split(patches, taps * taps, axis=-1)
  total = 0
  for index, part in enumerate(parts):
    i, j = divmod(index, taps)
    before_after = ((0, 0), (i, taps - 1 - i), (j, taps - 1 - j), (0, 0))
    total += jnp.pad(part, before_after)
  return total


def _even(kernel):
  """Pads a kernel of odd size with zero taps."""
  odd = kernel.shape[0] % 2
  return jnp.pad(kernel, ((0, odd), (0, odd), (0, 0), (0, 0)))


def _kernel_matrix(kernel):
  """[2·I, 2·J, C, O] → [I·J·4·C, O], rows ordered as patches are."""
  size, _, inputs, outputs = kernel.shape
  taps = size // 2
  kernel = kernel.reshape(taps, 2, taps, 2, inputs, outputs)
  return kernel.transpose(0, 2, 1, 3, 4, 5).reshape(-1, outputs)


def _kernel_from_matrix(matrix, shape):
  """The inverse of `_kernel_matrix`."""
  size, _, inputs, outputs = shape
  taps = size // 2
  matrix = matrix.reshape(taps, taps, 2, 2, inputs, outputs)
  return matrix.transpose(0, 2, 1, 3, 4, 5).reshape(shape)


def _fit(x, height, width):
  """Cuts off, or pads with zeros, to [N, height, width, C]."""
  x = x[:, :height, :width]
  missing = height - x.shape[1], width - x.shape[2]
  return jnp.pad(x, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
