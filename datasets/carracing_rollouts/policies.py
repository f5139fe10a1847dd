"""Behaviour policies: (observations, carry) → (actions, next carry).

A policy acts on a batch of B episodes at once. Its whole state is in the carry,
with one entry for each episode, so the actions of an episode do not depend on
its batch. A carry is a NumPy or JAX array whose first axis is the batch, or a
tuple or NamedTuple of carries, so that `rollout.play` can select the entries of
running episodes. Random generators are kept in an object array.

Datasets must be reproducible on other machines, where matrix products and
`tanh` round differently. So policies compute with dyadic fractions of few bits,
whose float64 sums are exact in any order, and with operations that IEEE 754
rounds the same everywhere.
"""

from collections.abc import Sequence
import re
from typing import Any, NamedTuple, Protocol

from carracing_data import errors
from carracing_data import rlds_steps
import numpy as np

_BLOCK = 8  # Side of the pixel blocks that `RandomPolicy` averages.
_GRID = rlds_steps.OBSERVATION_SIZE // _BLOCK
_FEATURES = _GRID * _GRID * 3
_HIDDEN = 16
_RESOLUTION = 2.0**-12
_GRASS = np.array([102, 204, 102])  # RGB, the colour of most of each frame.
_BRAKE_BIAS = -1.0
_STEP_SECONDS = 1 / 50  # CarRacing runs at 50 Hz.
_NUMBER = re.compile(r'[0-9]{1,3}(\.[0-9]{1,6})?')  # In a spec.


class Policy(Protocol):
  """Interface of behaviour policies and of trained controllers."""

  def initial_carry(self, seeds: Sequence[np.random.SeedSequence]) -> Any:
    """Returns the carry of B new episodes, one per seed."""
    ...

  def __call__(
    self,
    observation: np.ndarray,
    carry: Any,
    imposed: np.ndarray | None = None,
  ) -> tuple[np.ndarray, Any]:
    """Chooses one action for each episode.

    Args:
      observation: uint8 [B, 64, 64, 3], 0..255.
      carry: carry from `initial_carry` or the previous call.
      imposed: what will be done instead, float32 [B, 3], NaN where the chosen
        action will be; matters if the carry depends on what is done.

    Returns:
      The actions, float32 [B, 3] (steering −1..1, gas 0..1, brake 0..1), and
      the next carry.
    """
    ...


class UniformPolicy:
  """Draws every action uniformly from the action space."""

  def initial_carry(
    self, seeds: Sequence[np.random.SeedSequence]
  ) -> np.ndarray:
    return _generators(seeds)

  def __call__(
    self,
    observation: np.ndarray,
    carry: np.ndarray,
    imposed: np.ndarray | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    del observation, imposed
    actions = [
      rng.uniform(rlds_steps.ACTION_LOW, rlds_steps.ACTION_HIGH)
      for rng in carry
    ]
    return np.stack(actions).astype(np.float32), carry


class StraightAheadPolicy:
  """Constant gas, no steering: leaves the playing field in 200 to 288 steps.

  The simplest data with terminations, and a baseline. With full gas the wheels
  spin, and most cars never leave the field.
  """

  def __init__(self, gas: float = 0.4):
    """Takes the constant gas, 0..1."""
    self._gas = gas

  def initial_carry(self, seeds: Sequence[np.random.SeedSequence]) -> tuple[()]:
    del seeds
    return ()

  def __call__(
    self,
    observation: np.ndarray,
    carry: tuple[()],
    imposed: np.ndarray | None = None,
  ) -> tuple[np.ndarray, tuple[()]]:
    del imposed
    action = np.array([0, self._gas, 0], np.float32)
    return np.tile(action, (len(observation), 1)), carry


class RecordedPolicy:
  """Replays recorded actions.

  Episodes must not outlast their recordings; `max_steps` of the environments
  ensures this.
  """

  def __init__(self, actions: Sequence[np.ndarray]):
    """Takes the actions of B episodes, each float32 [N, 3] with its own N."""
    self._actions = actions

  def initial_carry(
    self, seeds: Sequence[np.random.SeedSequence]
  ) -> np.ndarray:
    """Returns each episode's number and next step, int [B, 2]."""
    return np.stack([np.arange(len(seeds)), np.zeros(len(seeds), int)], axis=-1)

  def __call__(
    self,
    observation: np.ndarray,
    carry: np.ndarray,
    imposed: np.ndarray | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    del observation, imposed
    action = np.stack([self._actions[episode][step] for episode, step in carry])
    return action, carry + [0, 1]


class BrownianCarry(NamedTuple):
  rng: np.ndarray  # Generators [B]
  action: np.ndarray  # float64 [B, 3]


class BrownianPolicy:
  """A clipped random walk in action space, with unit variance per second.

  Consecutive actions are similar, so the car gets farther than with independent
  ones.
  """

  def initial_carry(
    self, seeds: Sequence[np.random.SeedSequence]
  ) -> BrownianCarry:
    rngs = _generators(seeds)
    low, high = rlds_steps.ACTION_LOW, rlds_steps.ACTION_HIGH
    return BrownianCarry(rngs, np.stack([r.uniform(low, high) for r in rngs]))

  def __call__(
    self,
    observation: np.ndarray,
    carry: BrownianCarry,
    imposed: np.ndarray | None = None,
  ) -> tuple[np.ndarray, BrownianCarry]:
    del observation, imposed
    action = carry.action.astype(np.float32)
    noise = np.stack([rng.standard_normal(3) for rng in carry.rng])
    walked = np.clip(
      carry.action + np.sqrt(_STEP_SECONDS) * noise,
      rlds_steps.ACTION_LOW,
      rlds_steps.ACTION_HIGH,
    )
    return action, carry._replace(action=walked)


class RandomPolicyCarry(NamedTuple):
  rng: np.ndarray  # Generators [B]
  hidden_kernel: np.ndarray  # float64 [B, 192, 16]
  output_kernel: np.ndarray  # float64 [B, 16, 3]
  output_bias: np.ndarray  # float64 [B, 3]


class RandomPolicy:
  """An untrained network with new random weights for each episode.

  As in the paper (section "Collecting random rollouts" of its appendix, and
  the reference implementation behind it), the actions depend on the frame, so
  one car keeps to the left, another brakes on grass, a third speeds up. The
  frame is averaged over 8×8 blocks and passed through one hidden layer; white
  noise is added to the outputs.
  """

  def initial_carry(
    self, seeds: Sequence[np.random.SeedSequence]
  ) -> RandomPolicyCarry:
    rngs = _generators(seeds)

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
    self,
    observation: np.ndarray,
    carry: RandomPolicyCarry,
    imposed: np.ndarray | None = None,
  ) -> tuple[np.ndarray, RandomPolicyCarry]:
    del imposed
    features = _block_means(observation)
    hidden = _quantize(_softsign(features[:, None] @ carry.hidden_kernel))
    output = (hidden @ carry.output_kernel)[:, 0] + carry.output_bias
    noise = np.stack([rng.uniform(-0.5, 0.5, 3) for rng in carry.rng])
    steering, gas, brake = _softsign(output + noise).T
    action = np.stack([steering, (gas + 1) / 2, np.maximum(brake, 0)], -1)
    return action.astype(np.float32), carry


def _block_means(observation: np.ndarray) -> np.ndarray:
  """Averages the difference from the colour of grass over 8×8 blocks.

  Args:
    observation: uint8 [B, 64, 64, 3], 0..255.

  Returns:
    float64 [B, 192], about −2..2; exact, because 64 and 128 are powers of two.
  """
  # Sums whole rows first: NumPy adds long runs of small integers much faster.
  rows = observation.reshape(-1, _GRID, _BLOCK, _GRID * _BLOCK * 3)
  rows = rows.sum(2, dtype=np.uint16).reshape(-1, _GRID, _GRID, _BLOCK, 3)
  means = rows.sum(3, dtype=np.float64) / _BLOCK**2 - _GRASS
  return means.reshape(-1, _FEATURES) / 128


def _softsign(x: np.ndarray) -> np.ndarray:
  """Squashes to −1..1, using only correctly rounded operations."""
  return x / (1 + np.abs(x))


def _quantize(x: np.ndarray) -> np.ndarray:
  return np.round(x / _RESOLUTION) * _RESOLUTION


# Name → class of the policy and range of each of its arguments.
_POLICIES: dict[str, tuple[type[Any], dict[str, tuple[float, float]]]] = {
  'brownian': (BrownianPolicy, {}),
  'random_policy': (RandomPolicy, {}),
  'straight_ahead': (StraightAheadPolicy, {'gas': (0, 1)}),
  'uniform': (UniformPolicy, {}),
}


def make(spec: str) -> Policy:
  """Creates a policy.

  Args:
    spec: specification `NAME` or `NAME:ARGUMENT=VALUE,...`, e.g.
      `straight_ahead:gas=1`.

  Raises:
    errors.DatasetError: a policy or argument is unknown, or a value is not a
      number or out of range; the message lists all policies.
  """
  name, colon, rest = spec.partition(':')
  arguments = {}
  try:
    policy, ranges = _POLICIES[name]
    for item in rest.split(',') if colon else ():
      key, _, text = item.partition('=')
      if key in arguments or not _NUMBER.fullmatch(text):
        raise ValueError
      (low, high), value = ranges[key], float(text)
      if not low <= value <= high:
        raise ValueError
      arguments[key] = value
  except (KeyError, ValueError):
    raise errors.DatasetError(
      f'a policy is one of {_list()}, not {spec[:100]!r}'
    ) from None
  return policy(**arguments)


def _list() -> str:
  """Lists the specs of `make`, e.g. `straight_ahead[:gas=0..1], uniform`."""
  texts = []
  for name, (_, ranges) in _POLICIES.items():
    items = [f'{key}={low}..{high}' for key, (low, high) in ranges.items()]
    texts.append(name + (f'[:{",".join(items)}]' if items else ''))
  return ', '.join(texts)


def _generators(seeds: Sequence[np.random.SeedSequence]) -> np.ndarray:
  """Returns a random number generator for each seed, object [B]."""
  return np.array([np.random.default_rng(seed) for seed in seeds], object)
