"""Gymnasium's `CarRacing-v3`: the same game, sketched instead of drawn.

Seeds and actions flow in; frames that are close to Gymnasium's flow out, and
everything else (tracks, physics, rewards, ends of episodes) is Gymnasium's own.

Gymnasium draws 1000×800 pixels and shrinks them to 96×96. Here OpenCV draws the
polygons in view straight onto a canvas of 384×336 pixels and halves it twice.
The car, whose wheels are small, is drawn twice as fine. A frame has no
dashboard: the rows below the world stay black.
"""

import cmath
from collections.abc import Sequence
import functools
import math
from typing import Any

from carracing_data import rlds_steps
from carracing_rollouts import culled_car_racing
import cv2
from gymnasium.envs.box2d import car_dynamics
from gymnasium.envs.box2d import car_racing
import numpy as np

_SIDE, _ROWS = car_racing.STATE_W, rlds_steps.FRAME_ROWS
# Pixels of a canvas along each side of a pixel of the frame; powers of two, for
# OpenCV halves fast. With 2 for the ground a step takes a tenth less time, but
# the mean error is 0.18 levels of 0..255 instead of 0.10.
_GROUND_SUPERSAMPLING, _CAR_SUPERSAMPLING = 4, 8
# Places on a canvas are given in these fractions of a pixel.
_FRACTION_BITS = 4
_FRACTIONS = 1 << _FRACTION_BITS
# From Gymnasium's 1000×800 window, whose upper 700 rows show the world and
# whose y axis points up, to the frame.
_SCALE = np.array([_SIDE / 1000, -_ROWS / 700])
_GROUND_SCALE = _GROUND_SUPERSAMPLING * _FRACTIONS * _SCALE
_CAR_SCALE = _CAR_SUPERSAMPLING * _FRACTIONS * _SCALE
# Where the car is in the frame, column and row, and a part of it that holds the
# car, whose wheels may turn: it covers columns 45.2 to 50.8, rows 66.8 to 76.8.
_CAR = np.array([500, 600]) * abs(_SCALE)
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 52, 66, 78


def _on_canvas(column_row: np.ndarray, supersampling: int) -> np.ndarray:
  """Returns where a place of the frame is on a canvas.

  OpenCV counts from the centre of the first pixel; one half is added so that
  cutting to integers rounds.
  """
  return supersampling * _FRACTIONS * column_row - _FRACTIONS / 2 + 0.5


_CAR_ON_GROUND = _on_canvas(_CAR, _GROUND_SUPERSAMPLING)
_CAR_ON_CANVAS = _on_canvas(_CAR - (_LEFT, _TOP), _CAR_SUPERSAMPLING)
# From the car to the middle of the view and from there to a corner, in pixels
# of the window.
_AHEAD = 250
_RADIUS = math.hypot(500, 350)

Color = tuple[int, int, int]
# Colours as they appear in Gymnasium's frames, whose downscaling subtracts 2
# from every level but black.
_BACKGROUND = (100, 202, 100)
_HULL_COLOR, _WHEEL_COLOR, _STRIPE_COLOR = (202, 0, 0), (0, 0, 0), (75, 75, 75)
# Displayed colour of each kind of ground polygon, in drawing order: grass,
# three greys of the road, white and red curbs. The key is the green channel of
# its colour in the game.
_SHOWN: dict[int, Color] = {
  230: (100, 228, 100),
  102: (100, 100, 100),
  104: (102, 102, 102),
  107: (105, 105, 105),
  255: (253, 253, 253),
  0: (253, 0, 0),
}
_EMPTY_CANVAS = np.full(
  (_GROUND_SUPERSAMPLING * _ROWS, _GROUND_SUPERSAMPLING * _SIDE, 3),
  _BACKGROUND,
  np.uint8,
)
# OpenCV's polygons reach half a pixel of the canvas too far on each side,
# Gymnasium's half a pixel of the window. The difference, in pixels of the
# window, across; down it is 0.54. The car's is at most 0.15 and is left in.
_EXCESS = 0.5 * (1000 / (_GROUND_SUPERSAMPLING * _SIDE) - 1)

_WHEELS = [complex(*p) * car_dynamics.SIZE for p in car_dynamics.WHEELPOS]
_WHEEL_WIDTH = car_dynamics.WHEEL_W * car_dynamics.SIZE
_WHEEL_RADIUS = car_dynamics.WHEEL_R * car_dynamics.SIZE
_STRIPE_ANGLE = 1.2  # Radians of the wheel's turn.
# Polygons that are filled together must not overlap.
_HULL = [
  (car_dynamics.HULL_POLY1, car_dynamics.HULL_POLY3),
  (car_dynamics.HULL_POLY2, car_dynamics.HULL_POLY4),
]


class SketchedCarRacing(car_racing.CarRacing):
  """`CarRacing` without render modes: its frames come from `step` alone."""

  def _create_track(self) -> bool:
    success = super()._create_track()
    if success:
      assert self.road is not None
      corners, colors = zip(*self.road_poly)
      grass = culled_car_racing.grass_corners()
      polygons = np.concatenate([grass, corners])  # [P, 4, 2], metres.
      self._centers = polygons.mean(1, keepdims=True)
      self._arms = polygons - self._centers
      self._lengths = np.hypot(self._arms[..., :1], self._arms[..., 1:])
      self._x, self._y = self._centers[:, 0].T.copy()
      self._reach = self._lengths.max((1, 2))
      self._colors = np.array([(102, 230, 102)] * len(grass) + [*colors], float)
      # The game changes the colours of tiles in place; now it does so here.
      rows = {id(color): i for i, color in enumerate(colors, len(grass))}
      for tile in self.road:
        tile.color = self._colors[rows[id(tile.color)]]
    return success

  def _render(self, mode: str) -> np.ndarray:
    """Sketches a frame.

    Args:
      mode: `state_pixels`.

    Returns:
      uint8 [96, 96, 3], 0..255; the rows from 84 on are black.
    """
    assert mode == 'state_pixels' and self.car is not None
    zoom = culled_car_racing.pixels_per_metre(self.t)
    angle = self.car.hull.angle
    x, y = self.car.hull.position
    ground = self._draw_ground(zoom, angle, x, y)
    frame = np.zeros((_SIDE, _SIDE, 3), np.uint8)
    _shrink(ground, frame[:_ROWS])
    canvas = cv2.resize(
      _around_car(ground, _GROUND_SUPERSAMPLING),
      None,
      fx=_CAR_SUPERSAMPLING / _GROUND_SUPERSAMPLING,
      fy=_CAR_SUPERSAMPLING / _GROUND_SUPERSAMPLING,
      interpolation=cv2.INTER_NEAREST,
    )
    _draw_car(canvas, zoom, angle, self.car.wheels)
    _shrink(canvas, _around_car(frame, 1))
    return frame

  def _draw_ground(
    self, zoom: float, angle: float, x: float, y: float
  ) -> np.ndarray:
    """Returns a canvas with all but the car, uint8 [336, 384, 3]."""
    sin, cos = math.sin(angle), math.cos(angle)
    scale_x, scale_y = (zoom * _GROUND_SCALE).tolist()
    # Displacement on the canvas per metre along x and y.
    along_x = np.array([scale_x * cos, -scale_y * sin])
    along_y = np.array([scale_x * sin, scale_y * cos])
    origin = _CAR_ON_GROUND - x * along_x - y * along_y

    def project(corners: np.ndarray) -> np.ndarray:
      columns_rows = corners[..., :1] * along_x + corners[..., 1:] * along_y
      return (columns_rows + origin).astype(np.int32)

    radius = _RADIUS / zoom
    middle_x, middle_y = x - _AHEAD / zoom * sin, y + _AHEAD / zoom * cos
    if max(abs(middle_x), abs(middle_y)) + radius < car_racing.PLAYFIELD:
      canvas = _EMPTY_CANVAS.copy()
    else:
      canvas = np.zeros_like(_EMPTY_CANVAS)
      _fill(canvas, project(culled_car_racing.FIELD[None]), _BACKGROUND)

    distance_x, distance_y = self._x - middle_x, self._y - middle_y
    reach = self._reach + radius
    near = np.flatnonzero(
      distance_x * distance_x + distance_y * distance_y < reach * reach
    )
    inward = _EXCESS / zoom / self._lengths[near]
    corners = self._centers[near] + (1 - inward) * self._arms[near]
    # One call for each colour.
    batches = {green: [] for green in _SHOWN}
    greens = self._colors[near, 1].tolist()
    for green, polygon in zip(greens, project(corners)):
      batches[int(green)].append(polygon)
    for green, batch in batches.items():
      if batch:
        _fill(canvas, batch, _SHOWN[green])
    return canvas


def _draw_car(
  canvas: np.ndarray, zoom: float, angle: float, wheels: Sequence[Any]
) -> None:
  """Draws the car, which is always upright and at the same place."""
  tyres, stripes = [], []
  for center, wheel in zip(_WHEELS, wheels):
    turn = cmath.rect(1, wheel.angle - angle)
    forward, side = turn * 1j * _WHEEL_RADIUS, turn * _WHEEL_WIDTH
    left, right = center - side, center + side
    tyres.append(
      (left + forward, right + forward, right - forward, left - forward)
    )
    # Of the stripe around the wheel, the game shows the part where sin ≤ 0.
    ends = wheel.phase, wheel.phase + _STRIPE_ANGLE
    hidden = [math.sin(end) > 0 for end in ends]
    if not all(hidden):
      front, back = (
        forward * (math.copysign(1, math.cos(e)) if h else math.cos(e))
        for e, h in zip(ends, hidden)
      )
      stripes.append((left + front, right + front, right + back, left + back))
  corners = np.array(tyres + stripes).view(np.float64).reshape(-1, 4, 2)
  polygons = _of_car(corners, zoom)
  _fill(canvas, polygons[: len(tyres)], _WHEEL_COLOR)
  if stripes:
    _fill(canvas, polygons[len(tyres) :], _STRIPE_COLOR)
  for batch in _hull(zoom):
    _fill(canvas, batch, _HULL_COLOR)


@functools.lru_cache(maxsize=128)  # The zoom changes in the first second only.
def _hull(zoom: float) -> list[list[np.ndarray]]:
  """Returns the hull's polygons on the canvas, each int32 [corners, 2]."""
  return [
    [_of_car(np.array(polygon) * car_dynamics.SIZE, zoom) for polygon in batch]
    for batch in _HULL
  ]


def _of_car(corners: np.ndarray, zoom: float) -> np.ndarray:
  """Puts corners, in metres from the car's middle, on the car's canvas."""
  return (corners * (zoom * _CAR_SCALE) + _CAR_ON_CANVAS).astype(np.int32)


def _around_car(canvas: np.ndarray, supersampling: int) -> np.ndarray:
  """Returns a view of the part of a canvas that the car may cover."""
  rows = slice(_TOP * supersampling, _BOTTOM * supersampling)
  return canvas[rows, _LEFT * supersampling : _RIGHT * supersampling]


def _shrink(canvas: np.ndarray, frame: np.ndarray) -> None:
  """Writes a canvas to the part of a frame that it covers."""
  rows, columns = frame.shape[:2]
  # OpenCV has fast code for halving alone, in integers.
  while len(canvas) > 2 * rows:
    size = canvas.shape[1] // 2, len(canvas) // 2
    canvas = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)
  cv2.resize(canvas, (columns, rows), dst=frame, interpolation=cv2.INTER_AREA)


def _fill(
  canvas: np.ndarray, polygons: np.ndarray | Sequence[np.ndarray], color: Color
) -> None:
  cv2.fillPoly(canvas, list(polygons), color, cv2.LINE_8, _FRACTION_BITS)
