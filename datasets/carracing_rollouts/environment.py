"""CarRacing: (seeds, actions) → (96×96 frames, rewards).

This is the only module that creates simulators and resizes their frames to the
64×64 observations of the dataset.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from carracing_data import errors
from carracing_data import rlds_steps
from carracing_rollouts import culled_car_racing
from carracing_rollouts import sketched_car_racing
import cv2
from gymnasium import wrappers
from gymnasium.envs.box2d import car_racing
import numpy as np

MAX_STEPS = 1000  # Time limit of `CarRacing-v3`.
# The game's reward for leaving the playing field; no other step costs as much.
LEFT_FIELD_REWARD = -100.0


class Transition(NamedTuple):
  """The result of one step of R environments.

  Attributes:
    frame: uint8 [R, 96, 96, 3], 0..255.
    reward: float32 [R]; −0.1 per step plus 1000/tiles per new track tile.
    terminated: bool [R], the car finished the lap or left the playing field.
    truncated: bool [R], the episode reached its step limit.
  """

  frame: np.ndarray
  reward: np.ndarray
  terminated: np.ndarray
  truncated: np.ndarray


def resize(frame: np.ndarray) -> np.ndarray:
  """Crops the dashboard of a frame and resizes the rest to an observation.

  An output pixel is the mean over its exact area, a fraction with denominator
  63. It is never halfway between two integers, so its rounding, and with it the
  dataset, is the same on every machine.

  Args:
    frame: uint8 [B, 96, 96, 3], 0..255.

  Returns:
    uint8 [B, 64, 64, 3], 0..255.
  """
  rlds_steps.check_frames(frame, (96, 96, 3))
  resized = np.empty((len(frame), *rlds_steps.OBSERVATION_SHAPE), np.uint8)
  size = (rlds_steps.OBSERVATION_SIZE, rlds_steps.OBSERVATION_SIZE)
  for target, source in zip(resized, np.asarray(frame)):
    cropped = source[: rlds_steps.FRAME_ROWS]
    cv2.resize(cropped, size, target, interpolation=cv2.INTER_AREA)
  return resized


def lap_completed(
  terminated: np.ndarray | bool, reward: np.ndarray | float
) -> np.ndarray | bool:
  """Returns whether a step completed the lap, bool [R].

  Args:
    terminated: as in `Transition`.
    reward: as in `Transition`.
  """
  return terminated & (reward != LEFT_FIELD_REWARD)


class Environments:
  """A batch of B episodes of Gymnasium's `CarRacing-v3`, the reference.

  Every episode runs in a fresh simulator, because Box2D keeps the order of its
  internal lists across resets. So an episode depends only on its seed and its
  actions.

  Attributes:
    PACKAGES: packages whose versions affect the episodes.
    GAME: the simulator of one episode.
  """

  PACKAGES: ClassVar[tuple[str, ...]] = ('box2d', 'gymnasium', 'pygame-ce')
  GAME: ClassVar[type[car_racing.CarRacing]] = culled_car_racing.CulledCarRacing

  def __init__(self, seeds: Sequence[int], max_steps: int):
    """Prepares one episode of at most `max_steps` steps for each seed."""
    self._seeds = list(seeds)
    self._environments = [
      wrappers.TimeLimit(self.GAME(), max_steps) for _ in self._seeds
    ]

  def reset(self) -> np.ndarray:
    """Starts every episode; returns the first frames, uint8 [B, 96, 96, 3]."""
    return np.stack(
      [
        environment.reset(seed=seed)[0]
        for environment, seed in zip(self._environments, self._seeds)
      ]
    )

  def step(self, ids: np.ndarray, action: np.ndarray) -> Transition:
    """Advances the given episodes by one step.

    Args:
      ids: int [R], ascending: indices of running episodes in the batch.
      action: float32 [R, 3]: steering −1..1, gas 0..1, brake 0..1.

    Returns:
      The transitions of these episodes.

    Raises:
      ValueError: an action is not finite; NaN would complete the lap.
    """
    if not np.isfinite(action).all():
      raise ValueError('an action is not finite')
    frame, reward, terminated, truncated, _ = zip(
      *[self._environments[i].step(a) for i, a in zip(ids, action, strict=True)]
    )
    return Transition(
      np.stack(frame),
      np.array(reward, np.float32),
      np.array(terminated),
      np.array(truncated),
    )

  def close(self) -> None:
    """Frees the simulators."""
    for environment in self._environments:
      environment.close()
      free(environment.unwrapped)


def free(game: Any) -> None:
  """Breaks the reference cycles through Box2D, which garbage collection misses.

  Without this, every episode would leak some 0.5 MB.

  Args:
    game: unwrapped environment.
  """
  game.contactListener_keepref.env = None
  game.world.contactListener = None
  game.world.contactListener_bug_workaround = None
  for body in game.world.bodies:
    game.world.DestroyBody(body)


class SketchedEnvironments(Environments):
  """The same game with approximate frames, for bulk."""

  # OpenCV, which shapes the frames, is recorded for every simulator.
  PACKAGES: ClassVar[tuple[str, ...]] = ('box2d', 'gymnasium')
  GAME = sketched_car_racing.SketchedCarRacing


SIMULATORS: dict[str, type[Environments]] = {
  'gymnasium': Environments,
  'sketched': SketchedEnvironments,
}


def check_simulator(name: str) -> str:
  """Returns the name of a simulator unchanged.

  Args:
    name: a key of `SIMULATORS`.

  Raises:
    errors.UserError: it is none.
  """
  if name not in SIMULATORS:
    known = ', '.join(SIMULATORS)
    raise errors.UserError(f'a simulator is one of {known}, not {name!r}')
  return name
