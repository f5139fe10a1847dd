"""A replay buffer: what cars experienced, step by step → batches for learning.

The buffer is a plain tuple of arrays, so that it can be saved with a
checkpoint. Rows are steps of all cars, and the oldest are overwritten.
"""

from typing import NamedTuple

import numpy as np
from trainers.control import practice

# Outcomes after which the next state, or the value of a failure, is known.
_KNOWN_NEXT = practice.Outcome.RUNNING, practice.Outcome.FAILED


class Buffer(NamedTuple):
  """The last L steps of B cars.

  Attributes:
    features: inputs of the controller before the action, float16 [L, B, F].
    privileged: state of the simulator before it, float16 [L, B, 51].
    action: squashed action, float16 [L, B, 3] in −1..1.
    reward: shaped reward, float32 [L, B].
    outcome: see `practice.Outcome`, int8 [L, B].
  """

  features: np.ndarray
  privileged: np.ndarray
  action: np.ndarray
  reward: np.ndarray
  outcome: np.ndarray


class Batch(NamedTuple):
  """Transitions over up to n steps, [..., B].

  Attributes:
    features: before the first action, float16 [..., F].
    privileged: likewise, float16 [..., 51].
    action: first action, float16 [..., 3].
    reward: discounted sum of the rewards, float32 [...].
    discount: factor of the value of the next state, float32 [...]; 0 if the
      episode failed.
    next_features: after the last step, float16 [..., F].
    next_privileged: likewise, float16 [..., 51].
    weight: float32 [...]; 0 if the next state is unknown, else 1.
  """

  features: np.ndarray
  privileged: np.ndarray
  action: np.ndarray
  reward: np.ndarray
  discount: np.ndarray
  next_features: np.ndarray
  next_privileged: np.ndarray
  weight: np.ndarray


def empty(
  num_rows: int, num_cars: int, num_features: int, num_privileged: int
) -> Buffer:
  """Returns a buffer of zeros."""
  shape = num_rows, num_cars
  return Buffer(
    features=np.zeros((*shape, num_features), np.float16),
    privileged=np.zeros((*shape, num_privileged), np.float16),
    action=np.zeros((*shape, 3), np.float16),
    reward=np.zeros(shape, np.float32),
    outcome=np.zeros(shape, np.int8),
  )


def sample(
  buffer: Buffer,
  rows_written: int,
  shape: tuple[int, ...],
  rng: np.random.Generator,
  num_steps: int,
  discount: float,
  failure_value: float,
) -> Batch:
  """Samples transitions over up to `num_steps` steps.

  Args:
    buffer: the buffer.
    rows_written: number of rows ever written; row i is at i modulo L.
    shape: shape of the batch, e.g. [updates, B].
    rng: source of the random draws.
    num_steps: n, number of steps whose rewards are summed.
    discount: γ per step.
    failure_value: value of the state after a failure.
  """
  num_rows, num_cars = buffer.outcome.shape
  count = int(np.prod(shape))
  oldest = max(0, rows_written - num_rows)
  # The last n rows have no next state yet.
  first = rng.integers(oldest, rows_written - num_steps, count)
  car = rng.integers(num_cars, size=count)
  batch = transitions(buffer, first, car, num_steps, discount, failure_value)
  return Batch(*(x.reshape(*shape, *x.shape[1:]) for x in batch))


def transitions(
  buffer: Buffer,
  first: np.ndarray,
  car: np.ndarray,
  num_steps: int,
  discount: float,
  failure_value: float,
) -> Batch:
  """Returns the transitions from given steps of given cars; see `sample`.

  After a failure nothing follows but `failure_value`. The observation after a
  truncation or a lap is not in the buffer, so a transition ends before such a
  step. The numbers of the first rows and of the cars are int [N].
  """
  num_rows = len(buffer.outcome)
  reward = np.zeros(len(first), np.float32)
  factor = np.ones(len(first), np.float32)
  last = first.copy()
  running = np.ones(len(first), bool)
  for step in range(num_steps):
    row = (first + step) % num_rows
    outcome = buffer.outcome[row, car]
    running &= np.isin(outcome, _KNOWN_NEXT)
    reward += np.where(running, discount**step * buffer.reward[row, car], 0)
    failed = running & (outcome == practice.Outcome.FAILED)
    reward[failed] += discount ** (step + 1) * failure_value
    factor[failed] = 0
    running &= ~failed
    factor[running] *= discount
    last[running] += 1
  row, next_row = first % num_rows, last % num_rows
  return Batch(
    buffer.features[row, car],
    buffer.privileged[row, car],
    buffer.action[row, car],
    reward,
    factor,
    buffer.features[next_row, car],
    buffer.privileged[next_row, car],
    # Only a truncated first step leaves the transition without any step.
    ((last > first) | (factor == 0)).astype(np.float32),
  )
