"""CarRacing: seeds and actions flow in, 96×96 frames and rewards flow out.

This is the only place that makes the simulator and that turns its frame into
the 64×64 observation of the dataset.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from carracing_data import errors
from carracing_data import steps
from carracing_rollouts import culled_car_racing
from carracing_rollouts import sketched_car_racing
import cv2
from gymnasium import wrappers
from gymnasium.envs.box2d import car_racing
import numpy as np

FRAME_SIZE = 96  # Side of the simulator's square frame, in pixels.
FRAME_ROWS = 84  # The rows below hold the dashboard: no part of the world.
OBSERVATION_SIZE = 64
ACTION_LOW = np.array(steps.ACTION_LOW, np.float32)
ACTION_HIGH = np.array(steps.ACTION_HIGH, np.float32)


class Transition(NamedTuple):
  """What one step of a batch of B environments returns.

  Attributes:
    frame: uint8 [B, 96, 96, 3], 0..255.
    reward: float32 [B]; −0.1 a step and 1000/tiles for every new track tile.
    terminated: bool [B], the car finished the lap or left the playing field.
    truncated: bool [B], the episode reached its step limit.
  """

  frame: np.ndarray
  reward: np.ndarray
  terminated: np.ndarray
  truncated: np.ndarray


def resize(frame: np.ndarray) -> np.ndarray:
  """Returns the observation of the world above the dashboard.

  The mean over each output pixel's exact area is a fraction with denominator
  63, so it never falls half-way between two integers: its rounding, and with
  it the dataset, is the same on every machine.

  Args:
    frame: uint8 [B, 96, 96, 3], 0..255.

  Returns:
    uint8 [B, 64, 64, 3], 0..255.
  """
  size = (OBSERVATION_SIZE, OBSERVATION_SIZE)
  return np.stack(
    [
      cv2.resize(f[:FRAME_ROWS], size, interpolation=cv2.INTER_AREA)
      for f in frame
    ]
  )


class Environments(Protocol):
  """A batch of episodes, one for each seed, stepped together.

  Attributes:
    PACKAGES: whose versions shape the episodes.
  """

  PACKAGES: ClassVar[tuple[str, ...]]

  def __init__(self, seeds: Sequence[int], max_steps: int):
    """Prepares one episode for each seed, of at most `max_steps` steps."""
    ...

  def reset(self) -> np.ndarray:
    """Starts every episode; returns the first frames, uint8 [B, 96, 96, 3]."""
    ...

  def step(self, action: np.ndarray) -> Transition:
    """Steps every episode; what is returned of ended ones has no meaning.

    Args:
      action: float32 [B, 3]: steering −1..1, gas 0..1, brake 0..1.

    Returns:
      The transition of every episode.
    """
    ...

  def close(self) -> None:
    """Frees the simulators."""
    ...


class GymnasiumEnvironments:
  """Gymnasium's `CarRacing-v3`, the reference.

  Every episode runs in a fresh simulator, so that nothing of an earlier one
  (Box2D keeps the order of its internal lists) can reach it: an episode depends
  on its seed and its actions alone.
  """

  PACKAGES: ClassVar[tuple[str, ...]] = ('box2d', 'gymnasium', 'pygame-ce')
  GAME: ClassVar[type[car_racing.CarRacing]] = culled_car_racing.CulledCarRacing

  def __init__(self, seeds: Sequence[int], max_steps: int):
    self._seeds = list(seeds)
    self._environments = [
      wrappers.TimeLimit(self.GAME(), max_steps) for _ in self._seeds
    ]
    self._running = [True] * len(self._seeds)

  def reset(self) -> np.ndarray:
    return np.stack(
      [
        environment.reset(seed=seed)[0]
        for environment, seed in zip(self._environments, self._seeds)
      ]
    )

  def step(self, action: np.ndarray) -> Transition:
    batch = len(self._seeds)
    transition = Transition(
      np.zeros((batch, FRAME_SIZE, FRAME_SIZE, 3), np.uint8),
      np.zeros(batch, np.float32),
      np.zeros(batch, bool),
      np.zeros(batch, bool),
    )
    for i, environment in enumerate(self._environments):
      if self._running[i]:
        frame, reward, terminated, truncated, _ = environment.step(action[i])
        transition.frame[i] = frame
        transition.reward[i] = reward
        transition.terminated[i] = terminated
        transition.truncated[i] = truncated
        self._running[i] = not (terminated or truncated)
    return transition

  def close(self) -> None:
    for environment in self._environments:
      environment.close()
      _free(environment.unwrapped)


def _free(game: Any) -> None:
  """Breaks the references through Box2D, which garbage collection misses.

  Without this, every episode would leave some 0.5 MB behind.

  Args:
    game: the unwrapped environment.
  """
  game.contactListener_keepref.env = None
  game.world.contactListener = None
  game.world.contactListener_bug_workaround = None
  for body in game.world.bodies:
    game.world.DestroyBody(body)


class SketchedEnvironments(GymnasiumEnvironments):
  """Gymnasium's `CarRacing-v3` with approximate frames, for bulk."""

  # OpenCV, which shapes the frames, is recorded for every simulator.
  PACKAGES: ClassVar[tuple[str, ...]] = ('box2d', 'gymnasium')
  GAME = sketched_car_racing.SketchedCarRacing


class EnvPoolEnvironments:
  """EnvPool's `CarRacing-v3`: the game written again in C++, twice as fast.

  Frames, physics and tracks are close to Gymnasium's but not the same.
  """

  PACKAGES: ClassVar[tuple[str, ...]] = ('envpool',)

  def __init__(self, seeds: Sequence[int], max_steps: int):
    try:
      import envpool  # An optional dependency.
    except ImportError:
      raise errors.DatasetError(
        'the simulator envpool is not installed; install it with: pip install'
        " -c constraints.txt -e '.[envpool]'"
      ) from None
    self._environments = envpool.make(
      'CarRacing-v3',
      env_type='gymnasium',
      num_envs=len(seeds),
      num_threads=1,  # Processes are what builds run in parallel.
      env_seed=list(seeds),
      max_episode_steps=max_steps,
    )

  def reset(self) -> np.ndarray:
    return self._environments.reset()[0]

  def step(self, action: np.ndarray) -> Transition:
    # Ended episodes start again by themselves; nobody looks at them.
    frame, reward, terminated, truncated, _ = self._environments.step(action)
    return Transition(
      frame, reward.astype(np.float32), terminated, truncated & ~terminated
    )

  def close(self) -> None:
    self._environments.close()


SIMULATORS: dict[str, type[Environments]] = {
  'envpool': EnvPoolEnvironments,
  'gymnasium': GymnasiumEnvironments,
  'sketched': SketchedEnvironments,
}
