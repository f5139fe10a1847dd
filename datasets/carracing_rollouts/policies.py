"""Behaviour policies: observations and a carry flow in, actions flow out.

A policy acts on a batch of B episodes at once and keeps nothing itself: all it
remembers lies in the carry, one entry for each episode, so an episode's actions
do not depend on the batch it runs in.

Datasets are rebuilt on other machines, where matrix products and `tanh` round
differently. So the policies compute with dyadic fractions of few bits, whose
float64 sums are exact in any order, and with operations that IEEE 754 rounds
the same everywhere.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from carracing_rollouts import environment
import numpy as np

_BLOCK = 8  # Side of the pixel blocks that `RandomPolicy` averages.
_GRID = environment.OBSERVATION_SIZE // _BLOCK
_FEATURES = _GRID * _GRID * 3
_HIDDEN = 16
_RESOLUTION = 2.0**-12
_GRASS = np.array([102, 204, 102])  # RGB of most of every frame.
_BRAKE_BIAS = -1.0
_STEP_SECONDS = 1 / 50  # CarRacing runs at 50 Hz.


class Policy(Protocol):
  """Acts on a batch of episodes; a trained controller has the same shape."""

  def initial_carry(self, seeds: Sequence[np.random.SeedSequence]) -> Any:
    """Returns the carry of B new episodes, one for each seed."""
    ...

  def __call__(
    self, observation: np.ndarray, carry: Any
  ) -> tuple[np.ndarray, Any]:
    """Chooses one action for each episode.

    Args:
      observation: uint8 [B, 64, 64, 3], 0..255.
      carry: what `initial_carry` or the previous call returned.

    Returns:
      The actions, float32 [B, 3] (steering −1..1, gas 0..1, brake 0..1), and
      the next carry.
    """
    ...


class UniformPolicy:
  """Every action is drawn uniformly from the action space."""

  def initial_carry(
    self, seeds: Sequence[np.random.SeedSequence]
  ) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in seeds]

  def __call__(
    self, observation: np.ndarray, carry: list[np.random.Generator]
  ) -> tuple[np.ndarray, list[np.random.Generator]]:
    del observation
    actions = [
      rng.uniform(environment.ACTION_LOW, environment.ACTION_HIGH)
      for rng in carry
    ]
    return np.stack(actions).astype(np.float32), carry


class StraightAheadPolicy:
  """Some gas and no steering: leaves the playing field after 200 to 288 steps.

  The simplest data with terminations, and a baseline. With full gas the wheels
  spin and most cars never get that far.
  """

  def initial_carry(self, seeds: Sequence[np.random.SeedSequence]) -> int:
    return len(seeds)

  def __call__(
    self, observation: np.ndarray, carry: int
  ) -> tuple[np.ndarray, int]:
    del observation
    return np.tile(np.array([0, 0.4, 0], np.float32), (carry, 1)), carry


class BrownianCarry(NamedTuple):
  rng: list[np.random.Generator]
  action: np.ndarray  # float64 [B, 3]


class BrownianPolicy:
  """A random walk in action space, clipped to it, with unit variance a second.

  Neighbouring actions are alike, so the car moves further than under
  independent ones.
  """

  def initial_carry(
    self, seeds: Sequence[np.random.SeedSequence]
  ) -> BrownianCarry:
    rngs = [np.random.default_rng(seed) for seed in seeds]
    low, high = environment.ACTION_LOW, environment.ACTION_HIGH
    return BrownianCarry(rngs, np.stack([r.uniform(low, high) for r in rngs]))

  def __call__(
    self, observation: np.ndarray, carry: BrownianCarry
  ) -> tuple[np.ndarray, BrownianCarry]:
    del observation
    action = carry.action.astype(np.float32)
    noise = np.stack([rng.standard_normal(3) for rng in carry.rng])
    walked = np.clip(
      carry.action + np.sqrt(_STEP_SECONDS) * noise,
      environment.ACTION_LOW,
      environment.ACTION_HIGH,
    )
    return action, carry._replace(action=walked)


class RandomPolicyCarry(NamedTuple):
  rng: list[np.random.Generator]
  hidden_kernel: np.ndarray  # float64 [B, 192, 16]
  output_kernel: np.ndarray  # float64 [B, 16, 3]
  output_bias: np.ndarray  # float64 [B, 3]


class RandomPolicy:
  """An untrained network with weights drawn afresh for each episode.

  As in the paper (section "Collecting random rollouts" of its appendix, and
  the reference implementation behind it), the actions depend on the frame, so
  one episode keeps to the left, another brakes on grass, a third speeds up.
  The frame is averaged over 8×8 blocks, passes one hidden layer, and white
  noise is added to the outputs.
  """

  def initial_carry(
    self, seeds: Sequence[np.random.SeedSequence]
  ) -> RandomPolicyCarry:
    rngs = [np.random.default_rng(seed) for seed in seeds]

    def draw(*shape: int, scale: float = 1.0) -> np.ndarray:
      return _quantize(
        np.stack([scale * rng.standard_normal(shape) for rng in rngs])
      )

    return RandomPolicyCarry(
      rng=rngs,
      hidden_kernel=draw(_FEATURES, _HIDDEN, scale=4 * _FEATURES**-0.5),
      output_kernel=draw(_HIDDEN, 3),
      output_bias=draw(3, scale=0.5) + [0, 0, _BRAKE_BIAS],
    )

  def __call__(
    self, observation: np.ndarray, carry: RandomPolicyCarry
  ) -> tuple[np.ndarray, RandomPolicyCarry]:
    features = _block_means(observation)
    hidden = _quantize(_softsign(features[:, None] @ carry.hidden_kernel))
    output = (hidden @ carry.output_kernel)[:, 0] + carry.output_bias
    noise = np.stack([rng.uniform(-0.5, 0.5, 3) for rng in carry.rng])
    steering, gas, brake = _softsign(output + noise).T
    action = np.stack([steering, (gas + 1) / 2, np.maximum(brake, 0)], -1)
    return action.astype(np.float32), carry


def _block_means(observation: np.ndarray) -> np.ndarray:
  """Averages how far 8×8 blocks are from grass.

  Args:
    observation: uint8 [B, 64, 64, 3], 0..255.

  Returns:
    float64 [B, 192], about −2..2; exact, because 64 and 128 are powers of two.
  """
  # Whole rows first: NumPy adds long runs of small integers much faster.
  rows = observation.reshape(-1, _GRID, _BLOCK, _GRID * _BLOCK * 3)
  rows = rows.sum(2, dtype=np.uint16).reshape(-1, _GRID, _GRID, _BLOCK, 3)
  means = rows.sum(3, dtype=np.float64) / _BLOCK**2 - _GRASS
  return means.reshape(-1, _FEATURES) / 128


def _softsign(x: np.ndarray) -> np.ndarray:
  """Squashes to −1..1 with correctly rounded operations only."""
  return x / (1 + np.abs(x))


def _quantize(x: np.ndarray) -> np.ndarray:
  return np.round(x / _RESOLUTION) * _RESOLUTION


POLICIES = {
  'brownian': BrownianPolicy,
  'random_policy': RandomPolicy,
  'straight_ahead': StraightAheadPolicy,
  'uniform': UniformPolicy,
}
