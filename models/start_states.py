"""Start states of dreams: real latent vectors, and M's carry at them.

Episodes of latents → a file beside M's weights, so that a dream needs no
dataset → the first states of dreams.
"""

from collections.abc import Mapping, Sequence
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from models import mdn_rnn
from models import weights
from models import world_model
import numpy as np
import safetensors.numpy

MAX_LATENT = 100.0  # Far beyond what V returns.
_MAX_LOGVAR = 20.0  # Likewise.
_MAX_CELL = float(np.finfo(np.float16).max)
# All dreams start from these, and with few of them C overfits. 1.2 kB each.
_NUM_STATES = 16_384
_EPISODES_AT_ONCE = 32
_SEED = 0  # Fixed, so that all M of a dataset start from the same steps.
# A car that goes on for longer without a new tile is lost.
_MAX_STEPS_WITHOUT_TILE = 60


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


def collect(
  model: mdn_rnn.MDNRNN, params: Any, episodes: Sequence[Mapping[str, Any]]
) -> bytes:
  """Draws start states: steps soon after a new tile, none of them terminal.

  Args:
    model: M.
    params: its parameters.
    episodes: episodes of latents, see the card of `carracing_latents`. Each is
      read once for its rewards, and those with a drawn step once more, so they
      may be read on access.

  Returns:
    Content of the file of start states.
  """
  found = [(len(x['reward']), len(_on_their_way(x))) for x in episodes]
  lengths, counts = np.array(found).T
  nowhere = not counts.any()
  ends = np.arange(1, len(counts) + 1) if nowhere else np.cumsum(counts)
  rng = np.random.default_rng(_SEED)
  size = min(_NUM_STATES, ends[-1])
  chosen = np.sort(rng.choice(ends[-1], size, replace=False))
  of_episode = np.searchsorted(ends, chosen, side='right')
  model = model.clone(dtype=np.float32)  # As M is used.
  params = jax.device_get(params)  # One of several hosts computes alone.

  @jax.jit
  def watch(params, z, action):
    def step(carry, x):
      _, after = model.apply({'params': params}, *x, carry)
      return after, carry

    steps = (x.swapaxes(0, 1)[:, :, None] for x in (z, action))  # [T, B, 1, ..]
    carry = model.initial_carry(_EPISODES_AT_ONCE)
    return jax.lax.scan(step, carry, tuple(steps))[1]

  def padded(batch, name):
    shape = _EPISODES_AT_ONCE, max(lengths), batch[0][name].shape[-1]
    whole = np.zeros(shape, np.float32)
    for row, episode in zip(whole, batch):
      row[: len(episode[name])] = episode[name]
    return whole

  parts = []
  watched = np.unique(of_episode)
  for first in range(0, len(watched), _EPISODES_AT_ONCE):
    indices = watched[first : first + _EPISODES_AT_ONCE].tolist()
    batch = [episodes[index] for index in indices]
    cell, hidden = jax.device_get(
      watch(params, padded(batch, 'mean'), padded(batch, 'action'))
    )
    for row, (index, episode) in enumerate(zip(indices, batch)):
      steps = np.zeros(1, int) if nowhere else _on_their_way(episode)
      steps = steps[chosen[of_episode == index] - ends[index] + len(steps)]
      mean, logvar = episode['mean'], episode['logvar']
      parts.append(
        StartStates(
          *(x[steps] for x in (mean, logvar, cell[:, row], hidden[:, row]))
        )
      )
  return to_bytes(StartStates(*map(np.concatenate, zip(*parts))))


def _on_their_way(episode: Mapping[str, Any]) -> np.ndarray:
  """Returns the steps of an episode soon after the last new tile, int [N]."""
  # Nothing follows a terminal step.
  steps = np.arange(len(episode['reward']) - episode['is_terminal'][-1])
  reward = episode['reward'][: len(steps)]
  tiles = np.where(reward > 0, steps + 1, -np.inf)
  last_tile = np.maximum.accumulate(tiles)[:-1]
  return steps[1:][steps[1:] - last_tile <= _MAX_STEPS_WITHOUT_TILE]


def to_bytes(states: StartStates) -> bytes:
  """Returns the content of a file of start states, rounded to float16."""
  rounded = {
    name: np.clip(x, -_MAX_CELL, _MAX_CELL).astype(np.float16)
    for name, x in states._asdict().items()
  }
  return safetensors.numpy.save(rounded)


def thinned(states: StartStates, size: int) -> StartStates:
  """Returns some of the states, evenly taken; all if there are not as many."""
  count = len(states.mean)
  chosen = np.arange(min(size, count)) * count // min(size, count)
  return StartStates(*(x[chosen] for x in states))


def load(folder: str | os.PathLike[str]) -> StartStates:
  """Loads the start states from the folder of the exported weights of M.

  Returns:
    NumPy arrays, float32.

  Raises:
    weights.WeightsError: the weights are missing or damaged, or have no start
      states.
  """
  m = weights.load(folder, 'mdn_rnn')
  if m.start_states is None:
    raise weights.WeightsError(
      f'{folder} has no {weights.START_STATES}, from which dreams start,'
      ' because an earlier version of this project exported it. Delete the'
      ' folder weights/ in the run of M and run its command again, then that of'
      ' C, if there is one: they export M with start states'
    )
  sizes = {x: m.model.latent_size for x in ('mean', 'logvar')}
  sizes |= {x: m.model.hidden_size for x in ('cell', 'hidden')}
  path = os.path.join(folder, weights.START_STATES)
  arrays = weights.arrays(m.start_states, path)
  try:
    assert all(x.dtype in (np.float16, np.float32) for x in arrays.values())
    states = StartStates(**{k: np.float32(x) for k, x in arrays.items()})
    assert all(
      x.shape == (len(states.mean), sizes[name]) and np.isfinite(x).all()
      for name, x in states._asdict().items()
    )
    assert len(states.mean)
    assert np.abs(states.hidden).max() <= 1
    assert np.abs(states.mean).max() <= MAX_LATENT
    assert states.logvar.max() <= _MAX_LOGVAR
    assert np.abs(states.cell).max() <= _MAX_CELL
  except (AssertionError, TypeError):
    raise weights.WeightsError(
      f'{path} does not hold start states of this M; {weights.remedy(folder)}'
    ) from None
  return states


def draw(
  states: StartStates,
  batch_size: int,
  key: jax.Array,
  noise: float | jax.Array = 1.0,
) -> world_model.State:
  """Draws B states at random, [B, ...], with z from its posterior.

  `noise` is a factor of the posterior's standard deviations; 0: z is its mean.
  """
  index_key, noise_key = jax.random.split(key)
  index = jax.random.randint(index_key, (batch_size,), 0, len(states.mean))
  mean, logvar, cell, hidden = (jnp.asarray(x)[index] for x in states)
  normal = jax.random.normal(noise_key, mean.shape)
  z = mean + noise * jnp.exp(logvar / 2) * normal
  return world_model.State(z, (cell, hidden))
