"""Definitions of observations, actions and episodes for all datasets."""

import array
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

# Rows of the simulator's 96×96 frame above the dashboard.
FRAME_ROWS = 84
OBSERVATION_SIZE = 64
OBSERVATION_SHAPE = (OBSERVATION_SIZE, OBSERVATION_SIZE, 3)  # uint8, RGB.
ACTION_NAMES = ('steering', 'gas', 'brake')
ACTION_SIZE = len(ACTION_NAMES)
ACTION_LOW = np.array([-1, 0, 0], np.float32)
ACTION_HIGH = np.array([1, 1, 1], np.float32)


def check_frames(x: Any, shape: tuple[int, ...] = OBSERVATION_SHAPE) -> None:
  """Raises ValueError unless an array holds frames, uint8 [B, *shape].

  Those in 0..1, or without a batch, would give wrong results without an error.
  """
  found = getattr(x, 'dtype', type(x).__name__), [*getattr(x, 'shape', ())]
  if found != (np.uint8, [*found[1][:1], *shape]):
    wanted = ', '.join(map(str, ('B', *shape)))
    raise ValueError(
      f'frames are {found[0]}{found[1]}, not uint8[{wanted}] in 0..255'
    )


class Summary(NamedTuple):
  """Summary of an episode, for the metadata of a dataset.

  Attributes:
    num_steps: number of steps, N+1.
    total_reward: return of the episode.
    terminated: True if it ended in a terminal state, False if truncated.
  """

  num_steps: int
  total_reward: float
  terminated: bool


def summarize(steps: Mapping[str, np.ndarray]) -> Summary:
  """Summarizes an episode; see `broken_promises` for the format of steps."""
  return Summary(
    num_steps=len(steps['is_first']),
    total_reward=float(steps['reward'].sum(dtype=np.float64)),
    terminated=bool(steps['is_terminal'].any()),
  )


class Totals:
  """Sums up the episodes of a split one by one."""

  def __init__(self):
    self._num_steps = array.array('q')
    self._returns = array.array('d')
    self._num_terminated = 0

  def add(self, summary: Summary) -> None:
    self._num_steps.append(summary.num_steps)
    self._returns.append(summary.total_reward)
    self._num_terminated += summary.terminated

  def statistics(self) -> dict[str, Any]:
    """Returns the statistics of the split, see `metadata.SplitMetadata`."""
    returns = np.array(self._returns)
    return {
      'num_episodes': len(self._num_steps),
      'num_steps': sum(self._num_steps),
      'num_terminated': self._num_terminated,
      'episode_steps': self._num_steps.tolist(),
      'return_mean': float(np.mean(returns)),
      'return_std': float(np.std(returns)),
      'return_min': float(returns.min()),
      'return_max': float(returns.max()),
    }


def broken_promises(steps: Mapping[str, np.ndarray]) -> Iterator[str]:
  """Checks the N+1 steps of one episode, which follow RLDS.

  Args:
    steps: arrays [N+1, ...]: action, reward, discount, is_first, is_last,
      is_terminal, and any others, which must be finite.

  Yields:
    A description of each problem.
  """
  count = len(steps['is_first'])
  index = np.arange(count)
  last = index == count - 1
  if count < 2:
    yield f'it has {count} steps, fewer than 2'
  if not np.array_equal(steps['is_first'], index == 0):
    yield 'is_first is not set at the first step only'
  if not np.array_equal(steps['is_last'], last):
    yield 'is_last is not set at the last step only'
  if (steps['is_terminal'] & ~last).any():
    yield 'is_terminal is set before the last step'
  for name, value in steps.items():
    if np.issubdtype(value.dtype, np.floating):
      finite = np.isfinite(value).reshape(count, -1).all(axis=1)
      if not finite.all():
        yield f'{name} is not finite at step {finite.argmin()}'
  action = steps['action']
  inside = ((action >= ACTION_LOW) & (action <= ACTION_HIGH)).all(axis=1)
  if not inside.all():
    yield f'the action is out of range at step {inside.argmin()}'
  for name in 'action', 'is_intervention', 'reward', 'discount':
    if count and np.any(steps.get(name, [False])[-1]):
      yield f'{name} is not zero at the last step'
  expected = np.ones(max(count - 1, 0), np.float32)
  expected[-1:] = 0 if steps['is_terminal'].any() else 1
  if not np.array_equal(steps['discount'][:-1], expected):
    yield 'discount does not agree with is_terminal'
