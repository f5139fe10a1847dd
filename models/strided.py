"""Convolutions with stride 2, and their gradients, as matrix products.

XLA for CPU computes the gradients of strided and transposed convolutions many
times slower than the matrix products they come down to. On a CPU the functions
here are therefore such products; elsewhere they are the plain `lax`
convolutions. Values and gradients are the same up to rounding.

What bounds the speed then is how much memory the products' operands take. A
product with whole *patches* of K×K pixels reads every pixel K²/4 times, one
with single *pixels* writes as many overlapping outputs. Half of each is cheaper
than either: the columns of a window are gathered before the product, its rows
are added up after it. With stride 2, rows come in pairs; row 2i + a of the
kernel is row a of the pair i. Three products make it all:

  conv:             y = add_rows(strips(x) · M)
  conv_transpose:   x = add_columns(shifted_rows(y) · Mᵀ)
  kernel gradient:  M = strips(x)ᵀ · shifted_rows(y)

where M is the kernel as a matrix [2·K·C, ⌈K/2⌉·O], a row of it for every (a,
column, input channel) and a column for every (i, output channel). `strips` and
`add_columns`, `shifted_rows` and `add_rows` are each other's transposes.
"""

from flax import linen as nn
from flax.linen import dtypes
import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import DTypeLike

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')


class Conv(nn.Module):
  """A convolutional layer with stride 2 and without padding.

  Attributes:
    features: output channels.
    kernel_size: K.
    dtype: of the computation; the parameters are float32.
  """

  features: int
  kernel_size: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    x, kernel, bias = dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    return conv(x, kernel) + bias.reshape(1, 1, 1, -1)


class ConvTranspose(nn.Module):
  """The transpose of a convolutional layer with stride 2 without padding.

  Attributes:
    features: output channels.
    kernel_size: K.
    dtype: of the computation; the parameters are float32.
  """

  features: int
  kernel_size: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (self.kernel_size, self.kernel_size, self.features, x.shape[-1])
    kernel = self.param(
      'kernel', nn.initializers.lecun_normal(in_axis=-1, out_axis=-2), shape
    )
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    x, kernel, bias = dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    return conv_transpose(x, kernel) + bias.reshape(1, 1, 1, -1)


def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves with stride 2 and without padding.

  Args:
    x: float [N, H, W, C].
    kernel: float [K, K, C, O].

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
  size, _, _, outputs = kernel.shape
  strips = _strips(x, size)
  y = _add_rows(strips @ _matrix(kernel), outputs)
  shape = jnp.zeros((*x.shape[1:3], 0))  # Residuals are arrays: keeps H and W.
  return y, (strips, kernel, shape)


def _conv_backward(residuals, dy):
  strips, kernel, shape = residuals
  rows = _shifted_rows(_computed_once(dy), kernel.shape[0])
  dx = _add_columns(rows @ _matrix(kernel).T, kernel.shape, shape.shape[:2])
  return dx, _kernel_gradient(strips, rows, kernel.shape)


_conv.defvjp(_conv_forward, _conv_backward)


@jax.custom_vjp
def _conv_transpose(x, kernel):
  return _conv_transpose_forward(x, kernel)[0]


def _conv_transpose_forward(x, kernel):
  size = kernel.shape[0]
  rows = _shifted_rows(x, size)
  height, width = (2 * n + size - 2 for n in x.shape[1:3])
  y = _add_columns(rows @ _matrix(kernel).T, kernel.shape, (height, width))
  return y, (rows, kernel)


def _conv_transpose_backward(residuals, dy):
  rows, kernel = residuals
  size, _, _, inputs = kernel.shape
  strips = _strips(_computed_once(dy), size)
  dx = _add_rows(strips @ _matrix(kernel), inputs)
  return dx, _kernel_gradient(strips, rows, kernel.shape)


_conv_transpose.defvjp(_conv_transpose_forward, _conv_transpose_backward)


def _strips(x, size):
  """Gathers the columns of every window, for every pair of rows.

  Args:
    x: [N, H, W, C].
    size: K, taps of the kernel.

  Returns:
    [N, pairs of rows, windows in a row, 2·K·C], ordered (row, column, channel).
  """
  n, height, width, channels = x.shape
  pairs = (size + 1) // 2
  rows, columns = ((length - size) // 2 + pairs for length in (height, width))
  x = _fit(x, 2 * rows, 2 * columns)
  x = x.reshape(n, rows, 2, columns, 2 * channels)
  windows = columns - pairs + 1
  strips = [
    # The last column of an odd kernel is half of a pair.
    x[:, :, row, pair : pair + windows, : (size - 2 * pair) * channels]
    for row in range(2)
    for pair in range(pairs)
  ]
  return jnp.concatenate(strips, axis=-1)


def _add_columns(strips, kernel_shape, shape):
  """Adds up what overlaps, to an image [N, *shape, C]."""
  size, _, channels, _ = kernel_shape
  n, rows, windows, _ = strips.shape
  pairs = (size + 1) // 2
  strips = strips.reshape(n, rows, windows, 2, size * channels)
  odd = size % 2 * channels
  strips = jnp.pad(strips, ((0, 0), (0, 0), (0, 0), (0, 0), (0, odd)))
  total = 0
  for pair, part in enumerate(jnp.split(strips, pairs, axis=-1)):
    before_after = (pair, pairs - 1 - pair)
    total += jnp.pad(part, ((0, 0), (0, 0), before_after, (0, 0), (0, 0)))
  total = _computed_once(total).transpose(0, 1, 3, 2, 4)
  return _fit(total.reshape(n, 2 * rows, -1, channels), *shape)


def _shifted_rows(y, size):
  """[N, H, W, O] → [N, H + pairs − 1, W, pairs·O], the transpose of adding."""
  pairs = (size + 1) // 2
  shifted = [
    jnp.pad(y, ((0, 0), (pair, pairs - 1 - pair), (0, 0), (0, 0)))
    for pair in range(pairs)
  ]
  return jnp.concatenate(shifted, axis=-1)


def _add_rows(rows, outputs):
  """[N, H, W, pairs·O] → [N, H − pairs + 1, W, O]."""
  pairs = rows.shape[-1] // outputs
  height = rows.shape[1] - pairs + 1
  parts = jnp.split(rows, pairs, axis=-1)
  total = sum(part[:, i : i + height] for i, part in enumerate(parts))
  return _computed_once(total)


def _matrix(kernel):
  """[K, K, C, O] → [2·K·C, pairs·O]."""
  size, _, inputs, outputs = kernel.shape
  kernel = jnp.pad(kernel, ((0, size % 2), (0, 0), (0, 0), (0, 0)))
  kernel = kernel.reshape(-1, 2, size, inputs, outputs)
  return kernel.transpose(1, 2, 3, 0, 4).reshape(2 * size * inputs, -1)


def _kernel_gradient(strips, rows, shape):
  """Returns the product of both, as a kernel of the given shape."""
  size, _, inputs, outputs = shape
  matrix = jnp.matmul(
    strips.reshape(-1, strips.shape[-1]).T, rows.reshape(-1, rows.shape[-1])
  )
  kernel = matrix.reshape(2, size, inputs, -1, outputs)
  kernel = kernel.transpose(3, 0, 1, 2, 4).reshape(-1, *shape[1:])
  return kernel[:size]


def _computed_once(x):
  """Returns x, bit for bit.

  XLA for CPU repeats the computation of cheap elements in every operation that
  reads them, here for each of the overlapping windows, and heeds no
  `optimization_barrier`. A division is dear enough to be computed once; that
  the divisor is always one, XLA cannot know.
  """
  return x / jnp.minimum(jnp.abs(x) + 1, 1)


def _fit(x, height, width):
  """Cuts off, or pads with zeros, to [N, height, width, C]."""
  x = x[:, :height, :width]
  missing = height - x.shape[1], width - x.shape[2]
  return jnp.pad(x, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
