"""Start states of dreams: real latent vectors, and M's carry at them.

They are stored beside M's weights, so that a dream needs no dataset.
"""

import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from models import weights
from models import world_model
import numpy as np
import safetensors
import safetensors.numpy

MAX_LATENT = 100.0  # Far beyond what V returns.


class StartStates(NamedTuple):
  """N steps of real episodes.

  Attributes:
    mean: means of the posteriors of z, float32 [N, Z].
    logvar: logarithms of their variances, float32 [N, Z].
    cell: M's carry, which has watched the episode up to the step, float32
      [N, H].
    hidden: likewise.
  """

  mean: Any
  logvar: Any
  cell: Any
  hidden: Any


def to_bytes(states: StartStates) -> bytes:
  """Returns the content of a file of start states, rounded to float16."""
  limit = float(np.finfo(np.float16).max)
  rounded = {
    name: np.clip(x, -limit, limit).astype(np.float16)
    for name, x in states._asdict().items()
  }
  return safetensors.numpy.save(rounded)


def thinned(states: StartStates, size: int) -> StartStates:
  """Returns some of the states, evenly taken; all if there are not as many."""
  count = len(states.mean)
  chosen = np.arange(min(size, count)) * count // min(size, count)
  return StartStates(*(x[chosen] for x in states))


def load(folder: str | os.PathLike[str]) -> StartStates:
  """Loads the start states that were exported with M.

  Args:
    folder: folder of the exported weights of M.

  Returns:
    NumPy arrays, float32.

  Raises:
    weights.WeightsError: the weights are missing or damaged, or have no start
      states.
  """
  data = weights.start_states(folder)
  if data is None:
    raise weights.WeightsError(
      f'{folder} has no {weights.START_STATES}, from which dreams start,'
      ' because an earlier version of this project exported it. Delete the'
      ' folder weights/ in the run of M and run its command again, then that of'
      ' C, if there is one: they export M with start states'
    )
  config = weights.describe(folder).config
  sizes = {x: config['latent_size'] for x in ('mean', 'logvar')}
  sizes |= {x: config['hidden_size'] for x in ('cell', 'hidden')}
  try:
    arrays = safetensors.numpy.load(data)
    states = StartStates(**{k: np.float32(x) for k, x in arrays.items()})
    assert all(
      x.shape == (len(states.mean), sizes[name]) and np.isfinite(x).all()
      for name, x in states._asdict().items()
    )
    assert len(states.mean)
    assert np.abs(states.hidden).max() <= 1
    assert np.abs(states.mean).max() <= MAX_LATENT
  except (safetensors.SafetensorError, AssertionError, TypeError):
    raise weights.WeightsError(
      f'{os.path.join(folder, weights.START_STATES)} does not hold start states'
      f' of this M; {weights.remedy(folder)}'
    ) from None
  return states


def draw(
  states: StartStates, batch_size: int, key: jax.Array
) -> world_model.State:
  """Draws states at random, with z from its posterior.

  Args:
    states: start states.
    batch_size: B.
    key: random key.

  Returns:
    States, [B, ...].
  """
  index_key, noise_key = jax.random.split(key)
  index = jax.random.randint(index_key, (batch_size,), 0, len(states.mean))
  mean, logvar, cell, hidden = (jnp.asarray(x)[index] for x in states)
  noise = jax.random.normal(noise_key, mean.shape)
  return world_model.State(mean + jnp.exp(logvar / 2) * noise, (cell, hidden))
