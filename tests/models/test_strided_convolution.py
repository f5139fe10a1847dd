import functools

import jax
import jax.numpy as jnp
from models import strided_convolution
from models import vae
import numpy as np
import pytest


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(function, x, kernel):
  y, gradients = jax.vjp(function, x, kernel)
  return y, *gradients(jnp.cos(jnp.arange(y.size)).reshape(y.shape))


def assert_equal_up_to_rounding(found, expected):
  for a, b in zip(found, expected, strict=True):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize(
  ('shape', 'size', 'outputs'),
  [
    ((2, 64, 64, 3), 4, 32),
    ((2, 31, 31, 32), 4, 64),  # The last row and column are unused.
    ((2, 6, 6, 128), 4, 256),
    ((3, 9, 12, 5), 6, 7),
    ((1, 4, 4, 2), 2, 3),
    ((2, 9, 8, 3), 5, 4),
  ],
)
def test_conv_equals_lax(shape, size, outputs):
  x = jax.random.normal(jax.random.key(0), shape)
  kernel = jax.random.normal(
    jax.random.key(1), (size, size, shape[-1], outputs)
  )
  assert_equal_up_to_rounding(
    *(
      value_and_gradients(
        functools.partial(strided_convolution.conv, form=form), x, kernel
      )
      for form in ('matmul', 'lax')
    )
  )


@pytest.mark.parametrize(
  ('shape', 'size', 'outputs'),
  [
    ((2, 1, 1, 1024), 5, 128),
    ((2, 5, 5, 128), 5, 64),
    ((2, 13, 13, 64), 6, 32),
    ((3, 4, 3, 5), 3, 7),
    ((1, 2, 2, 2), 2, 3),
  ],
)
def test_conv_transpose_equals_lax(shape, size, outputs):
  x = jax.random.normal(jax.random.key(0), shape)
  kernel = jax.random.normal(
    jax.random.key(1), (size, size, outputs, shape[-1])
  )
  found, expected = (
    value_and_gradients(
      functools.partial(strided_convolution.conv_transpose, form=form),
      x,
      kernel,
    )
    for form in ('matmul', 'lax')
  )
  assert_equal_up_to_rounding(found, expected)


def test_conv_transpose_is_the_transpose_of_conv():
  x = jax.random.normal(jax.random.key(0), (2, 10, 10, 3))
  kernel = jax.random.normal(jax.random.key(1), (4, 4, 3, 5))
  y = jax.random.normal(jax.random.key(2), (2, 4, 4, 5))
  np.testing.assert_allclose(
    jnp.vdot(strided_convolution.conv(x, kernel), y),
    jnp.vdot(x, strided_convolution.conv_transpose(y, kernel)),
    rtol=1e-4,
  )


def test_each_layer_is_computed_once():
  """Counts the divisions of `_computed_once`, one for each layer, for CPU.

  There are fewer if XLA has removed them, more if it computes them repeatedly.
  """
  encoder = vae.Encoder(32, convolution='matmul')
  frames = jax.ShapeDtypeStruct((16, 64, 64, 3), np.float32)
  variables = jax.eval_shape(encoder.init, jax.random.key(0), frames)
  program = jax.jit(encoder.apply).lower(variables, frames).compile().as_text()
  assert program.count(' divide(') == 4


def test_unknown_form_and_other_strides_are_refused():
  x, kernel = jnp.zeros((1, 8, 8, 3)), jnp.zeros((4, 4, 3, 2))
  with pytest.raises(ValueError, match="'fft' is not one of auto, lax, matmul"):
    strided_convolution.conv(x, kernel, 'fft')  # pyright: ignore[reportArgumentType]
  with pytest.raises(ValueError, match='only stride 2 without padding'):
    strided_convolution.conv_general_dilated('auto')(x, kernel, (1, 1), 'VALID')
