"""Convolutions with stride 2, as matrix products or as XLA convolutions.

XLA for CPU computes the gradients of strided and transposed convolutions many
times slower than equivalent matrix products. So a convolution has two forms,
equal up to rounding, and 'auto' selects one:

  'lax':     `lax.conv_general_dilated` and `lax.conv_transpose`;
  'matmul':  the products below;
  'auto':    'matmul' in programs for CPU, 'lax' in all others.

The memory traffic of the operands limits the speed of the products. A product
with whole *patches* of K×K pixels reads every pixel K²/4 times; one with single
*pixels* writes as many overlapping outputs. Combining both is cheaper than
either: the columns of a window are gathered before the product, and its rows
are added up after it. With stride 2, rows come in pairs; row 2i + a of the
kernel is row a of pair i:

  conv:             y = add_rows(strips(x) · M)
  conv_transpose:   x = add_columns(shifted_rows(y) · Mᵀ)

where M is the kernel as a matrix [2·K·C, ⌈K/2⌉·O], with a row for every (a,
column, input channel) and a column for every (i, output channel). `strips` and
`add_columns` are each other's transposes, and so are `shifted_rows` and
`add_rows`; each computes the gradient of the other. The gradient of M is
strips(x)ᵀ · shifted_rows(y) in both cases.
"""

from collections.abc import Callable
from typing import Literal

from flax import linen as nn
from flax.linen import dtypes
import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import DTypeLike

Form = Literal['auto', 'lax', 'matmul']

_Map = Callable[[jax.Array], jax.Array]
_LAYOUT = ('NHWC', 'HWIO', 'NHWC')


class ConvTranspose(nn.Module):
  """`nn.ConvTranspose` with stride 2, without padding, in a selectable form.

  Its parameters are those of `nn.ConvTranspose(transpose_kernel=True)`, which,
  unlike `nn.Conv`, does not accept another convolution.

  Attributes:
    features: number of output channels.
    kernel_size: K, height and width of the kernel.
    dtype: dtype of the computation; the parameters are float32.
    form: form of the convolution, see above.
  """

  features: int
  kernel_size: int
  dtype: DTypeLike = jnp.float32
  form: Form = 'auto'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (self.kernel_size, self.kernel_size, self.features, x.shape[-1])
    kernel = self.param(
      'kernel', nn.initializers.lecun_normal(in_axis=-1, out_axis=-2), shape
    )
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    x, kernel, bias = dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    return conv_transpose(x, kernel, self.form) + bias.reshape(1, 1, 1, -1)


def conv_general_dilated(form: Form) -> Callable[..., jax.Array]:
  """Returns `conv` with the signature that `nn.Conv` expects."""

  def convolve(x, kernel, window_strides, padding, **options):
    del options  # Flax's defaults: NHWC, no dilation, one group.
    if window_strides != (2, 2) or padding != 'VALID':
      raise ValueError('only stride 2 without padding is supported')
    return conv(x, kernel, form)

  return convolve


def conv(x: jax.Array, kernel: jax.Array, form: Form = 'auto') -> jax.Array:
  """Convolves with stride 2 and without padding.

  Args:
    x: float [N, H, W, C].
    kernel: float [K, K, C, O].
    form: form of the convolution, see above.

  Returns:
    float [N, (H − K) // 2 + 1, (W − K) // 2 + 1, O].
  """
  return _apply(form, _matmul_conv, _lax_conv, x, kernel)


def conv_transpose(
  x: jax.Array, kernel: jax.Array, form: Form = 'auto'
) -> jax.Array:
  """Applies the transpose of a convolution with stride 2 without padding.

  Every input pixel adds K×K output pixels: y[2p + t] += kernel[t] · x[p].

  Args:
    x: float [N, H, W, C].
    kernel: float [K, K, O, C].
    form: form of the convolution, see above.

  Returns:
    float [N, 2·H + K − 2, 2·W + K − 2, O].
  """
  if x.shape[1:3] == (1, 1) and form != 'lax':
    # No overlaps: one matrix product on every platform.
    size, _, outputs, inputs = kernel.shape
    y = x.reshape(-1, inputs) @ kernel.reshape(-1, inputs).T
    return y.reshape(-1, size, size, outputs)
  return _apply(form, _matmul_conv_transpose, _lax_conv_transpose, x, kernel)


def _apply(form, matmul, plain, x, kernel):
  match form:
    case 'auto':
      # Decided when the program is lowered, possibly for another platform than
      # that of this process.
      return lax.platform_dependent(x, kernel, cpu=matmul, default=plain)
    case 'lax':
      return plain(x, kernel)
    case 'matmul':
      return matmul(x, kernel)
    case _:
      raise ValueError(f'{form!r} is not one of auto, lax, matmul')


def _lax_conv(x, kernel):
  return lax.conv_general_dilated(
    x, kernel, (2, 2), 'VALID', dimension_numbers=_LAYOUT
  )


def _lax_conv_transpose(x, kernel):
  return lax.conv_transpose(
    x,
    kernel,
    (2, 2),
    'VALID',
    dimension_numbers=_LAYOUT,
    transpose_kernel=True,
  )


def _matmul_conv(x, kernel):
  size, _, _, outputs = kernel.shape
  shape = x.shape[1:3]
  strips = _linear(
    lambda x: _strips(x, size),
    lambda strips: _add_columns(strips, kernel.shape, shape),
  )
  add_rows = _linear(
    lambda rows: _add_rows(rows, outputs),
    lambda dy: _shifted_rows(_computed_once(dy), size),
  )
  return add_rows(_product(strips(x), _matrix(kernel)))


def _matmul_conv_transpose(y, kernel):
  size, _, _, inputs = kernel.shape
  shape = tuple(2 * n + size - 2 for n in y.shape[1:3])
  shifted_rows = _linear(
    lambda y: _shifted_rows(y, size), lambda rows: _add_rows(rows, inputs)
  )
  add_columns = _linear(
    lambda strips: _add_columns(strips, kernel.shape, shape),
    lambda dx: _strips(_computed_once(dx), size),
  )
  return add_columns(_product(shifted_rows(y), _matrix(kernel).T))


def _product(x, matrix):
  y = x.reshape(-1, x.shape[-1]) @ matrix
  return y.reshape(*x.shape[:-1], -1)


def _linear(function: _Map, transpose: _Map) -> _Map:
  """Returns a linear function with the given transpose for its gradient.

  The transpose that JAX derives would lack `_computed_once`.
  """
  linear = jax.custom_vjp(function)
  linear.defvjp(lambda x: (function(x), None), lambda _, dy: (transpose(dy),))
  return linear


def _strips(x, size):
  """Gathers the columns of every window, for every pair of rows.

  Args:
    x: [N, H, W, C].
    size: K, height and width of the kernel.

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
    # In an odd kernel, the last pair has one column only.
    x[:, :, row, pair : pair + windows, : (size - 2 * pair) * channels]
    for row in range(2)
    for pair in range(pairs)
  ]
  return jnp.concatenate(strips, axis=-1)


def _add_columns(strips, kernel_shape, shape):
  """Adds up overlapping columns to an image [N, *shape, C]."""
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
  """[N, H, W, O] → [N, H + pairs − 1, W, pairs·O]; transposes `_add_rows`."""
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


def _computed_once(x):
  """Returns x, bit for bit, but computed only once.

  XLA for CPU recomputes cheap elements in every operation that reads them, here
  for each of the overlapping windows, and ignores `optimization_barrier`. A
  division is expensive enough to be computed once, and XLA cannot know that the
  divisor is always one.
  """
  return x / jnp.minimum(jnp.abs(x) + 1, 1)


def _fit(x, height, width):
  """Crops, or pads with zeros, to [N, height, width, C]."""
  x = x[:, :height, :width]
  missing = height - x.shape[1], width - x.shape[2]
  return jnp.pad(x, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
