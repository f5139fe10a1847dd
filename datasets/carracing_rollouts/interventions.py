"""Interventions: actions that are imposed on whoever drives, at random.

A driver's actions follow from what it sees. In its data, what an action does
cannot be told from what the situation would have brought anyway, so a model of
them learns that actions hardly matter (confounding; Pearl, "Causality" (2009);
de Haan et al., "Causal Confusion in Imitation Learning" (2019)). An
intervention begins with a known probability whatever is seen, and imposes one
random action for 5 to 300 steps.
"""

from collections.abc import Sequence
from typing import NamedTuple

from carracing_data import rlds_steps
import numpy as np

MIN_STEPS, MAX_STEPS = 5, 300
_RATIO = (MAX_STEPS + 1) / MIN_STEPS
# Probability, and which of steering, gas and brake are drawn; the others are 0.
_KINDS = (
  (0.3, (0, 0, 0)),
  (0.29, (1, 1, 0)),
  (0.2, (1, 0, 1)),
  (0.15, (1, 0, 0)),
  (0.06, (1, 1, 1)),
)
_STRAIGHT = 0.4  # Probability that an intervention does not steer.
# Of the seed of an episode's policy, so that both draw independently.
_SPAWN_KEY = 1


class Carry(NamedTuple):
  """The interventions on B episodes.

  Attributes:
    generators: sources of the random draws, object [B]; None where there are
      no interventions.
    probability: probability that an intervention begins at a step that has
      none, float64 [B].
    action: action of the present intervention, or of the last, float32 [B, 3].
    remaining: how many steps the present one still lasts, int64 [B].
  """

  generators: np.ndarray
  probability: np.ndarray
  action: np.ndarray
  remaining: np.ndarray


def initial_carry(
  seeds: Sequence[np.random.SeedSequence], probability: Sequence[float]
) -> Carry:
  """Returns the carry of B new episodes.

  Args:
    seeds: seeds of the policies of B episodes.
    probability: probability that an intervention begins at a step, B numbers.
  """
  size = len(seeds)
  generators = np.full(size, None, object)
  for i, (seed, positive) in enumerate(zip(seeds, probability, strict=True)):
    if positive:
      key = *seed.spawn_key, _SPAWN_KEY
      child = np.random.SeedSequence(seed.entropy, spawn_key=key)
      generators[i] = np.random.default_rng(child)
  return Carry(
    generators,
    np.array(probability, np.float64),
    np.zeros((size, rlds_steps.ACTION_SIZE), np.float32),
    np.zeros(size, np.int64),
  )


def draw(carry: Carry) -> tuple[np.ndarray, Carry]:
  """Draws what is imposed at a step.

  Returns:
    Imposed actions, float32 [B, 3], NaN where a driver's own action holds; and
    the next carry.
  """
  action, remaining = carry.action.copy(), carry.remaining.copy()
  for i in np.flatnonzero((remaining == 0) & (carry.probability > 0)):
    rng = carry.generators[i]
    if rng.random() < carry.probability[i]:
      action[i] = _action(rng)
      # Log-uniform: most are short, and after some the car is far away. The
      # last bit of a power may differ between machines; rounding hides it.
      remaining[i] = int(MIN_STEPS * _RATIO ** rng.random())
  imposed = np.where(remaining[:, None] > 0, action, np.float32(np.nan))
  return imposed, carry._replace(
    action=action, remaining=np.maximum(remaining - 1, 0)
  )


def _action(rng: np.random.Generator) -> np.ndarray:
  """Draws an action, float32 [3]."""
  shares, drawn = zip(*_KINDS)
  kind = np.searchsorted(np.cumsum(shares), rng.random(), side='right')
  action = rng.uniform(rlds_steps.ACTION_LOW, rlds_steps.ACTION_HIGH)
  action = np.where(drawn[min(kind, len(drawn) - 1)], action, 0)
  if rng.random() < _STRAIGHT:
    action[0] = 0
  return action.astype(np.float32)
