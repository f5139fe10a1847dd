"""The simulator's state as 51 numbers, which only critics see, in training.

Pinto et al., "Asymmetric Actor Critic for Image-Based Robot Learning" (2017).
Positions and angles are relative to the car or to the centre line, and every
number is scaled to about −1..1.
"""

import math
from typing import Any

from gymnasium.envs.box2d import car_racing
import numpy as np

# Points of the centre line ahead: numbers of tiles from the nearest one.
_AHEAD = np.arange(2, 38, 3)
_NEXT_TILES = 8
SIZE = 19 + 2 * len(_AHEAD) + _NEXT_TILES
# A tile so far behind the nearest one can no longer be touched.
_BEHIND = 2
_MOST_MISSED = 3  # In a step; a car that got lost may jump along the track.
# The nearest tile is searched for among so many tiles before and after the
# last one, and on the whole track if it is further away than this.
_NEIGHBOURS = np.arange(-12, 13)
_FAR = 30.0  # Metres.


class Observer:
  """Describes the state of a car, and remembers where on the track it is.

  Attributes:
    passed: index of the tile up to which it has left the track behind.
  """

  def __init__(self, game: car_racing.CarRacing):
    """Takes a game at the start of an episode."""
    self._game: Any = game
    # Direction (radians) and position (metres) of each tile, [tiles, 3].
    self._track = np.array([tile[1:] for tile in game.track])
    self._nearest = self.passed = self._find_nearest(None)

  def advance(self) -> int:
    """Follows the car after a step.

    Returns:
      Number of tiles that it has left behind without touching them.
    """
    self._nearest = self._find_nearest(self._nearest)
    num_tiles = len(self._track)
    newly_passed = (self._nearest - _BEHIND - self.passed) % num_tiles
    if newly_passed > num_tiles // 2:  # Not ahead of the last one.
      return 0
    passed = [(self.passed + 1 + i) % num_tiles for i in range(newly_passed)]
    self.passed = (self.passed + newly_passed) % num_tiles
    missed = sum(not self._game.road[i].road_visited for i in passed)
    return min(missed, _MOST_MISSED)

  def describe(self, steps_without_tile: int) -> np.ndarray:
    """Returns the state.

    Args:
      steps_without_tile: steps since the car touched a new tile.

    Returns:
      float32 [51]: speed along and across the car; yaw rate; steering angle;
      gas; speeds of the 4 wheels; whether each of them is on grass; offset from
      the centre line; sine and cosine of the angle to it; 12 points of it
      ahead, across and along the car; which of the 8 next tiles have been
      visited; steps without a new tile; progress of the zoom at the start;
      share of the track visited.
    """
    car = self._game.car
    x, y = car.hull.position
    sin, cos = math.sin(car.hull.angle), math.cos(car.hull.angle)
    velocity_x, velocity_y = car.hull.linearVelocity
    num_tiles = len(self._track)
    nearest = self._nearest
    direction, center_x, center_y = self._track[nearest]
    offset = math.cos(direction) * (x - center_x) + math.sin(direction) * (
      y - center_y
    )
    angle = car.hull.angle - direction
    ahead_x, ahead_y = (
      self._track[(nearest + _AHEAD) % num_tiles, 1:] - (x, y)
    ).T
    visited = [
      self._game.road[(nearest - 1 + i) % num_tiles].road_visited
      for i in range(_NEXT_TILES)
    ]
    return np.array(
      [
        (cos * velocity_y - sin * velocity_x) / 30,
        (cos * velocity_x + sin * velocity_y) / 10,
        car.hull.angularVelocity / 2,
        car.wheels[0].joint.angle / 0.4,
        car.wheels[2].gas,
        *(wheel.omega / 60 for wheel in car.wheels),
        *(not wheel.tiles for wheel in car.wheels),
        min(max(offset / car_racing.TRACK_WIDTH, -5), 5),
        math.sin(angle),
        math.cos(angle),
        *np.clip((cos * ahead_x + sin * ahead_y) / 20, -4, 4),
        *np.clip((cos * ahead_y - sin * ahead_x) / 40, -4, 4),
        *visited,
        steps_without_tile / 50,
        min(self._game.t, 1),
        self._game.tile_visited_count / num_tiles,
      ],
      np.float32,
    )

  def _find_nearest(self, last: int | None) -> int:
    """Returns the index of the nearest tile; `last` is where it was last."""
    x, y = self._game.car.hull.position
    tiles = np.arange(len(self._track))
    if last is not None:
      near = (last + _NEIGHBOURS) % len(self._track)
      if self._distances(near, x, y).min() <= _FAR:
        tiles = near
    return int(tiles[self._distances(tiles, x, y).argmin()])

  def _distances(self, tiles: np.ndarray, x: float, y: float) -> np.ndarray:
    difference_x, difference_y = (self._track[tiles, 1:] - (x, y)).T
    return np.hypot(difference_x, difference_y)
