"""A long short-term memory layer whose gradient takes few matrix products.

Hochreiter & Schmidhuber, "Long Short-Term Memory" (1997), with forget gates.
Values and gradients equal those of `nn.RNN(nn.OptimizedLSTMCell(H))` up to
rounding; the parameters of that cell are blocks of `kernel` and `bias`. Two
things make it faster on CPU:

- One matrix maps inputs and hidden state to all four gates, so that no weights
  are concatenated per step, which otherwise dominates the latency of a single
  step.
- The backward scan computes only the gradients of the gates and the carry. The
  gradient of the matrix is then a single product over all steps, instead of one
  product and one sum of matrices per step.

Unlike the convolutions of `strided_convolution`, it has one form for all
platforms: scans and matrix products, which are plain XLA everywhere.

Because σ(a) = ½ + ½·tanh(½·a), one `tanh` computes all gates, and the backward
scan needs only its output.
"""

from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

# (cell, hidden), each float32 [B, H].
Carry = tuple[jax.Array, jax.Array]


class LSTM(nn.Module):
  """Long short-term memory over a sequence.

  Attributes:
    hidden_size: H, number of units.
    dtype: dtype of the matrix products; parameters and carry are float32.
  """

  hidden_size: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, inputs: jax.Array, carry: Carry
  ) -> tuple[Carry, jax.Array]:
    """Runs the LSTM over sequences.

    Args:
      inputs: float [B, T, D].
      carry: carry before the first step.

    Returns:
      The carry after the last step, and the hidden states after every step,
      float32 [B, T, H].
    """
    shape = inputs.shape[-1] + self.hidden_size, 4 * self.hidden_size
    kernel = self.param('kernel', _init_kernel, shape)
    bias = self.param('bias', nn.initializers.zeros, shape[1:])
    carry, hidden = lstm(
      jnp.swapaxes(inputs, 0, 1).astype(self.dtype),
      kernel.astype(self.dtype),
      bias,
      carry,
    )
    return carry, jnp.swapaxes(hidden, 0, 1)


def _init_kernel(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
  """Initialises the kernel as in `nn.OptimizedLSTMCell`."""
  hidden_size = shape[1] // 4
  input_key, *gate_keys = jax.random.split(key, 5)
  of_inputs = nn.initializers.lecun_normal()(
    input_key, (shape[0] - hidden_size, shape[1])
  )
  of_hidden = [
    nn.initializers.orthogonal()(gate_key, (hidden_size, hidden_size))
    for gate_key in gate_keys
  ]
  return jnp.concatenate([of_inputs, jnp.concatenate(of_hidden, axis=1)])


@jax.custom_vjp
def lstm(
  inputs: jax.Array, kernel: jax.Array, bias: jax.Array, carry: Carry
) -> tuple[Carry, jax.Array]:
  """Runs the LSTM over sequences, time first.

  Args:
    inputs: [T, B, D], in the dtype of the matrix products.
    kernel: [D + H, 4·H], columns ordered input gate, forget gate, candidate,
      output gate; same dtype.
    bias: float32 [4·H].
    carry: carry before the first step.

  Returns:
    The carry after the last step, and the hidden states after every step,
    float32 [T, B, H].
  """
  return _forward(inputs, kernel, bias, carry)[0]


def _forward(inputs, kernel, bias, carry):
  bias = bias[None]
  scale = jnp.repeat(
    jnp.array([[0.5, 0.5, 1, 0.5]], bias.dtype), bias.shape[1] // 4, axis=1
  )

  def step(carry, x):
    cell_before, hidden = carry
    x = jnp.concatenate([x, hidden.astype(x.dtype)], axis=-1)
    tanhs = jnp.tanh(scale * (_dot(x, kernel) + bias))
    i, f, g, o = _gates(tanhs)
    cell = f * cell_before + i * g
    hidden = o * jnp.tanh(cell)
    return (cell, hidden), (hidden, cell_before, tanhs)

  final, (hidden, cell_before, tanhs) = lax.scan(step, carry, inputs)
  hidden_before = jnp.concatenate([carry[1][None], hidden[:-1]])
  residuals = inputs, kernel, hidden_before, cell_before, tanhs
  return (final, hidden), residuals


def _backward(residuals, gradients):
  inputs, kernel, hidden_before, cell_before, tanhs = residuals
  dfinal, dhidden = gradients
  size = inputs.shape[-1]
  kernel_of_hidden = kernel[size:].T

  def step(dcarry, x):
    dcell, dhidden = dcarry
    dhidden_here, cell_before, tanhs = x
    i, f, g, o = _gates(tanhs)
    tanh_cell = jnp.tanh(f * cell_before + i * g)
    dhidden += dhidden_here
    dcell += dhidden * o * (1 - tanh_cell**2)
    # With t = tanh(½·a): dσ(a)/da = ¼·(1 − t²).
    dgates = jnp.concatenate(
      [
        0.25 * dcell * g,
        0.25 * dcell * cell_before,
        dcell * i,
        0.25 * dhidden * tanh_cell,
      ],
      axis=-1,
    ) * (1 - tanhs**2)
    dgates = dgates.astype(kernel.dtype)
    return (dcell * f, _dot(dgates, kernel_of_hidden)), dgates

  dcarry, dgates = lax.scan(
    step, dfinal, (dhidden, cell_before, tanhs), reverse=True
  )
  x = jnp.concatenate([inputs, hidden_before.astype(inputs.dtype)], axis=-1)
  # Contracts both axes; merging them would reshard a batch on several devices.
  dkernel = jnp.tensordot(
    x, dgates, ((0, 1), (0, 1)), preferred_element_type=jnp.float32
  )
  return (
    _dot(dgates, kernel[:size].T).astype(inputs.dtype),
    dkernel.astype(kernel.dtype),
    dgates.sum((0, 1), dtype=jnp.float32),
    dcarry,
  )


lstm.defvjp(_forward, _backward)


def _gates(tanhs):
  """[B, 4·H] → input gate, forget gate, candidate, output gate, [B, H] each."""
  i, f, g, o = jnp.split(tanhs, 4, axis=-1)
  return 0.5 + 0.5 * i, 0.5 + 0.5 * f, g, 0.5 + 0.5 * o


def _dot(x, y):
  return jnp.dot(x, y, preferred_element_type=jnp.float32)
