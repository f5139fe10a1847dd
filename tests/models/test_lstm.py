import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
from models import lstm
import numpy as np
import pytest

GATES = 'ifgo'


def plain_params(params, input_size):
  """The same parameters as `nn.OptimizedLSTMCell` names them."""
  kernels = jnp.split(params['kernel'], 4, axis=1)
  biases = jnp.split(params['bias'], 4)
  of_inputs = {
    f'i{gate}': {'kernel': kernel[:input_size]}
    for gate, kernel in zip(GATES, kernels)
  }
  of_hidden = {
    f'h{gate}': {'kernel': kernel[input_size:], 'bias': bias}
    for gate, kernel, bias in zip(GATES, kernels, biases)
  }
  return {'cell': of_inputs | of_hidden}


def random_arguments(batch_size, steps, input_size, hidden_size):
  keys = jax.random.split(jax.random.key(0), 4)
  inputs = jax.random.normal(keys[0], (batch_size, steps, input_size))
  carry = tuple(jax.random.normal(keys[1], (2, batch_size, hidden_size)))
  params = lstm.LSTM(hidden_size).init(keys[2], inputs, carry)['params']
  bias = jax.random.normal(keys[3], params['bias'].shape)
  return {**params, 'bias': bias}, inputs, carry


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(function, *arguments):
  values, gradients = jax.vjp(function, *arguments)
  directions = jax.tree.map(
    lambda x: jnp.cos(jnp.arange(x.size)).reshape(x.shape), values
  )
  return values, gradients(directions)


@pytest.mark.parametrize(
  ('batch_size', 'steps', 'input_size', 'hidden_size'),
  [(2, 7, 35, 256), (1, 1, 35, 64), (1, 13, 3, 5), (5, 1, 1, 1), (3, 40, 7, 9)],
)
def test_values_and_gradients_equal_plain_lstm(
  batch_size, steps, input_size, hidden_size
):
  params, inputs, carry = random_arguments(
    batch_size, steps, input_size, hidden_size
  )

  def ours(params, inputs, carry):
    model = lstm.LSTM(hidden_size)
    return model.apply({'params': params}, inputs, carry)

  def plain(params, inputs, carry):
    model = nn.RNN(nn.OptimizedLSTMCell(hidden_size), return_carry=True)
    return model.apply(
      {'params': plain_params(params, input_size)},
      inputs,
      initial_carry=carry,
    )

  found, expected = (
    jax.tree.leaves(value_and_gradients(function, params, inputs, carry))
    for function in (ours, plain)
  )
  for x, y in zip(found, expected, strict=True):
    assert x.shape == y.shape
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * np.abs(y).max())


def test_parameters_are_initialised_like_those_of_the_plain_lstm():
  params = lstm.LSTM(64).init(
    jax.random.key(0), jnp.zeros((1, 1, 36)), (jnp.zeros((1, 64)),) * 2
  )['params']
  assert params['kernel'].shape == (36 + 64, 4 * 64)
  np.testing.assert_allclose(params['kernel'][:36].var(), 1 / 36, rtol=0.05)
  for kernel in jnp.split(params['kernel'][36:], 4, axis=1):
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(64), atol=1e-5)
  assert not params['bias'].any()


def test_bfloat16_is_close_to_float32():
  params, inputs, carry = random_arguments(4, 30, 35, 64)

  def run(dtype):
    model = lstm.LSTM(64, dtype)
    return value_and_gradients(
      lambda params: model.apply({'params': params}, inputs, carry), params
    )

  found, expected = map(jax.tree.leaves, (run(jnp.bfloat16), run(jnp.float32)))
  for x, y in zip(found, expected, strict=True):
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(x, y, atol=0.03 * np.abs(y).max())
