"""Inputs of networks ↔ the same with mean 0 and standard deviation 1.

Networks learn from standardised features. The controller that is exported takes
them as they are, so its layer absorbs the moments.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_MIN_STD = 1e-3  # Of a feature that hardly varies.


class Moments(NamedTuple):
  """Mean and standard deviation of features.

  Attributes:
    mean: float32 [F].
    std: likewise.
  """

  mean: Any
  std: Any


def measured(features: np.ndarray) -> Moments:
  """Returns the moments of examples, float [..., F], as NumPy arrays."""
  examples = features.reshape(-1, features.shape[-1]).astype(np.float32)
  return Moments(examples.mean(0), examples.std(0) + np.float32(_MIN_STD))


def standardised(moments: Moments, x: jax.Array) -> jax.Array:
  """Standardises float32 [..., F] with the first F moments."""
  leading = tuple(range(x.ndim - 1))
  mean, std = (jnp.expand_dims(y[: x.shape[-1]], leading) for y in moments)
  return (x - mean) / std


def folded(layer: Mapping[str, Any], moments: Moments) -> dict[str, Any]:
  """Folds the standardisation of features into a linear layer.

  Args:
    layer: `kernel` [F, 3] and `bias` [3], for standardised features.
    moments: of the features; the first F count.

  Returns:
    Parameters of `controller.Controller`, NumPy arrays, float32.
  """
  kernel, bias = np.asarray(layer['kernel']), np.asarray(layer['bias'])
  mean, std = (np.asarray(x)[: len(kernel)] for x in moments)
  # In float64, because the sum of many products is subtracted.
  kernel = kernel.astype(np.float64) / std[:, None]
  bias = bias - mean.astype(np.float64) @ kernel
  return {'linear': {'kernel': np.float32(kernel), 'bias': np.float32(bias)}}


def unfolded(params: Mapping[str, Any], moments: Moments) -> dict[str, Any]:
  """Returns the layer for standardised features; the inverse of `folded`."""
  kernel, bias = (np.asarray(params['linear'][x]) for x in ('kernel', 'bias'))
  mean, std = (np.asarray(x)[: len(kernel)] for x in moments)
  bias = bias + mean.astype(np.float64) @ kernel.astype(np.float64)
  return {'kernel': np.float32(kernel * std[:, None]), 'bias': np.float32(bias)}
