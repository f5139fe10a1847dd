"""A car that practises: episodes that start anywhere on many tracks.

The game, its physics and its rewards are the simulator's. Three things serve
learning. An episode that gets stuck ends early. The next one starts at a random
place of the same track, so that all of it is seen, or shortly before the place
where this one failed, and slightly off the line, so that the car learns to
recover. The reward is shaped with penalties.
"""

import enum
import math
from typing import Any, NamedTuple

from carracing_rollouts import environment
from carracing_rollouts import tracks
from gymnasium.envs.box2d import car_dynamics
import numpy as np
from trainers.control import privileged_observations

# A new track is drawn after this number of steps, even without a whole lap.
_MAX_TRACK_STEPS = 2000
# A failed episode is tried again so many tiles before where it got to: at least
# the first, less than the second.
_TILES_BEFORE = 15, 50


class Outcome(enum.IntEnum):
  """What a step did to its episode."""

  RUNNING = 0
  FAILED = 1  # Stuck, or left the field: only −0.1 per step would follow.
  TRUNCATED = 2  # The step limit: driving on would go on as before.
  COMPLETED = 3  # A lap; in training as if driving went on.


class Rules(NamedTuple):
  """The rules of practice.

  Attributes:
    simulator: a key of `environment.SIMULATORS`.
    stuck_steps: steps without a new tile after which an episode fails; 0:
      never.
    grass_penalty: subtracted per step with all four wheels on grass.
    speed_penalty: subtracted per step at a speed of 100, and with its square.
    missed_penalty: subtracted per tile that the car left behind untouched. A
      lap ends only when all tiles are touched.
    start_share: share of the other starts on the same track that are at its
      start; `retry_share` comes first.
    start_offset: standard deviation of the distance from the centre line at
      other starts, in metres.
    start_angle: standard deviation of the angle to it, in radians.
    retry_share: share of failed episodes that are tried again: the next one
      starts shortly before the place where it failed.
  """

  simulator: str
  stuck_steps: int = 0
  grass_penalty: float = 0.0
  speed_penalty: float = 0.0
  missed_penalty: float = 0.0
  start_share: float = 1.0
  start_offset: float = 0.0
  start_angle: float = 0.0
  retry_share: float = 0.0


class Result(NamedTuple):
  """The result of a step.

  Attributes:
    frame: uint8 [96, 96, 3], 0..255; already of the next episode if this one
      ended and another one began.
    reward: the game's reward.
    shaped_reward: reward with penalties; the game's −100 for leaving the field
      is left out, because `outcome` already records it.
    outcome: what the step did to the episode.
    episode_return: sum of the game's rewards in the episode so far.
    episode_steps: steps of the episode so far.
  """

  frame: np.ndarray
  reward: float
  shaped_reward: float
  outcome: Outcome
  episode_return: float
  episode_steps: int


class Car:
  """One car, in one game after the other."""

  def __init__(self, rules: Rules):
    self._rules = rules
    self._make_game = environment.SIMULATORS[rules.simulator].GAME
    self._game: Any = None

  def practise(self, rng: np.random.Generator) -> np.ndarray:
    """Starts to practise on tracks, and at starts, that `rng` draws.

    Returns the first frame.
    """
    self._rng: np.random.Generator | None = rng
    self._stuck_steps = self._rules.stuck_steps
    return self._enter(tracks.training(rng))

  def drive(self, track: int, stuck_steps: int = 0) -> np.ndarray:
    """Starts a single episode on the track of a seed; returns the first frame.

    `stuck_steps` is as in `Rules`.
    """
    self._rng = None
    self._stuck_steps = stuck_steps
    return self._enter(track)

  def step(self, action: np.ndarray) -> Result:
    """Drives a step: steering −1..1, gas 0..1 and brake 0..1, float32 [3]."""
    frame, reward, terminated, _, info = self._game.step(action)
    self._steps += 1
    self._return += reward
    if self._game.tile_visited_count > self._visited:
      self._visited, self._without_tile = self._game.tile_visited_count, 0
    else:
      self._without_tile += 1
    missed = self._observer.advance()
    outcome = self._outcome(terminated, info)
    shaped_reward = self._shaped(reward, missed)
    totals = self._return, self._steps
    if outcome != Outcome.RUNNING and self._rng is not None:
      frame = self._begin_again(self._rng, outcome)
    return Result(frame, reward, shaped_reward, outcome, *totals)

  def privileged(self) -> np.ndarray:
    """Returns the state for critics, float32 [51]; see `Observer.describe`."""
    return self._observer.describe(self._without_tile)

  def close(self) -> None:
    """Frees the simulator."""
    if self._game is not None:
      environment.free(self._game)
      self._game = None

  def respawn(
    self, tile: int, offset: float = 0.0, angle: float = 0.0
  ) -> np.ndarray:
    """Starts another episode on the same track; returns its first frame.

    Args:
      tile: index of the tile to start from; at tile 0 the episode begins like
        a new game, with the camera far away.
      offset: distance to the right of the centre line, in metres.
      angle: angle to the left of the centre line, in radians.
    """
    game = self._game
    game.car.destroy()  # Calls the game's listener, so tiles are reset after.
    for road_tile in game.road:
      road_tile.road_visited = False
      road_tile.color[:] = game.road_color + 0.01 * (road_tile.idx % 3) * 255
    game.reward = game.prev_reward = 0.0
    game.tile_visited_count = 0
    game.new_lap = False
    game.t = 0.0 if tile == 0 else 1.0
    _, direction, x, y = game.track[tile]
    game.car = car_dynamics.Car(
      game.world,
      direction + angle,
      x + offset * math.cos(direction),
      y + offset * math.sin(direction),
    )
    frame = game.step(None)[0]
    self._track_steps += self._steps
    self._begin_episode()
    return frame

  def _enter(self, track: int) -> np.ndarray:
    """Starts a game on a track."""
    self.close()
    self._game = self._make_game()
    frame, _ = self._game.reset(seed=track)
    self._track_steps = 0
    self._begin_episode()
    return frame

  def _begin_episode(self) -> None:
    self._observer = privileged_observations.Observer(self._game)
    self._visited = self._game.tile_visited_count
    self._steps = self._without_tile = 0
    self._return = 0.0

  def _outcome(self, terminated: bool, info: dict[str, Any]) -> Outcome:
    if terminated:
      return Outcome.COMPLETED if info['lap_finished'] else Outcome.FAILED
    if self._steps >= environment.MAX_STEPS:
      return Outcome.TRUNCATED
    if 0 < self._stuck_steps <= self._without_tile:
      return Outcome.FAILED
    return Outcome.RUNNING

  def _shaped(self, reward: float, missed: int) -> float:
    if reward == environment.LEFT_FIELD_REWARD:
      reward = -0.1
    reward -= missed * self._rules.missed_penalty
    car = self._game.car
    if not any(wheel.tiles for wheel in car.wheels):
      reward -= self._rules.grass_penalty
    speed = car.hull.linearVelocity.length / 100
    return reward - self._rules.speed_penalty * speed**2

  def _begin_again(
    self, rng: np.random.Generator, outcome: Outcome
  ) -> np.ndarray:
    """Begins the episode after one that ended; returns its first frame."""
    num_steps = self._track_steps + self._steps
    if outcome == Outcome.COMPLETED or num_steps > _MAX_TRACK_STEPS:
      return self._enter(tracks.training(rng))
    num_tiles = len(self._game.track)
    retry_share = self._rules.retry_share if outcome == Outcome.FAILED else 0.0
    if retry_share and rng.random() < retry_share:
      before = rng.integers(*_TILES_BEFORE)
      tile = max((self._observer.passed - before) % num_tiles, 1)
    elif rng.random() < self._rules.start_share:
      return self.respawn(0)
    else:
      tile = rng.integers(1, num_tiles)
    return self.respawn(
      int(tile),
      rng.normal() * self._rules.start_offset,
      rng.normal() * self._rules.start_angle,
    )
