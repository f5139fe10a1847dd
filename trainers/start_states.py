"""Chooses the states from which dreams start; see `models.start_states`."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from models import mdn_rnn
from models import start_states
import numpy as np

# All dreams start from these, and with few of them C overfits. 1.2 kB each.
_NUM_STATES = 16_384
_EPISODES_AT_ONCE = 32
_SEED = 0  # Fixed, so that all M of a dataset start from the same steps.
# A car that goes on for longer without a new tile is lost.
_MAX_STEPS_WITHOUT_TILE = 60


def collect(
  model: mdn_rnn.MDNRNN, params: Any, episodes: Sequence[Mapping[str, Any]]
) -> bytes:
  """Draws start states: steps soon after a new tile, none of them terminal.

  Args:
    model: M.
    params: its parameters.
    episodes: episodes of latents, see the card of `carracing_latents`.

  Returns:
    Content of the file of start states.
  """
  total = _on_their_way(episodes)
  if not len(total):
    total = np.stack(
      [np.arange(len(episodes)), np.zeros(len(episodes), int)], 1
    )
  rng = np.random.default_rng(_SEED)
  size = min(_NUM_STATES, len(total))
  chosen = total[np.sort(rng.choice(len(total), size, replace=False))]
  model = model.clone(dtype=np.float32)  # As M is used.
  longest = max(len(episode['mean']) for episode in episodes)

  @jax.jit
  def watch(params, z, action):
    def step(carry, x):
      _, after = model.apply({'params': params}, *x, carry)
      return after, carry

    steps = (x.swapaxes(0, 1)[:, :, None] for x in (z, action))  # [T, B, 1, ..]
    carry = model.initial_carry(_EPISODES_AT_ONCE)
    return jax.lax.scan(step, carry, tuple(steps))[1]

  def padded(indices, name):
    size = episodes[0][name].shape[-1]
    batch = np.zeros((_EPISODES_AT_ONCE, longest, size), np.float32)
    for row, index in zip(batch, indices):
      row[: len(episodes[index][name])] = episodes[index][name]
    return batch

  parts = []
  watched = np.unique(chosen[:, 0])
  for first in range(0, len(watched), _EPISODES_AT_ONCE):
    indices = watched[first : first + _EPISODES_AT_ONCE]
    cell, hidden = jax.device_get(
      watch(params, padded(indices, 'mean'), padded(indices, 'action'))
    )
    for row, index in enumerate(indices):
      steps = chosen[chosen[:, 0] == index, 1]
      parts.append(
        start_states.StartStates(
          episodes[index]['mean'][steps],
          episodes[index]['logvar'][steps],
          cell[steps, row],
          hidden[steps, row],
        )
      )
  return start_states.to_bytes(
    start_states.StartStates(*map(np.concatenate, zip(*parts)))
  )


def _on_their_way(episodes: Sequence[Mapping[str, Any]]) -> np.ndarray:
  """Returns the steps soon after the last new tile, [N, 2].

  Args:
    episodes: episodes of latents.

  Returns:
    Pairs of the index of an episode and of a step in it.
  """
  found = []
  for index, episode in enumerate(episodes):
    # Nothing follows a terminal step.
    steps = np.arange(len(episode['reward']) - episode['is_terminal'][-1])
    reward = episode['reward'][: len(steps)]
    tiles = np.where(reward > 0, steps + 1, -np.inf)
    last_tile = np.maximum.accumulate(tiles)[:-1]
    steps = steps[1:][steps[1:] - last_tile <= _MAX_STEPS_WITHOUT_TILE]
    found.append(np.stack([np.full(len(steps), index), steps], axis=1))
  return np.concatenate(found)
