"""Gymnasium's `CarRacing-v3`: the same game, sketched instead of drawn.

Seeds and actions flow in; frames that are close to Gymnasium's flow out, and
everything else (tracks, physics, rewards, ends of episodes) is Gymnasium's own.

Gymnasium draws 1000×800 pixels and shrinks them to 96×96. Here OpenCV draws the
polygons in view straight onto a canvas of 384×336 pixels, with corners at
multiples of 1/16 pixel, and halves it twice. A frame has no dashboard: the rows
below the world stay black.
"""

import cmath
from collections.abc import Sequence
import functools
import math
import os

import cv2
import numpy as np

# pygame greets on stdout at import, which would break a command's output.
os.environ.setdefault('PYGAME_HIDE_SUPPORT_PROMPT', '1')
from gymnasium.envs.box2d import car_dynamics
from gymnasium.envs.box2d import car_racing

# Builds run one process for each core: OpenCV's threads would only compete.
cv2.setNumThreads(1)

_SIDE = car_racing.STATE_W
_ROWS = _SIDE * 7 // 8  # The rows below hold the dashboard.
# OpenCV halves 8-bit images five times as fast as it divides them by four.
_WIDTH, _HEIGHT = 4 * _SIDE, 4 * _ROWS
_FRACTION_BITS = 4
# Canvas pixels for each pixel of Gymnasium's window of 1000×800, of which the
# upper 700 rows show the world. Its y points upwards.
_SCALE = np.array([_WIDTH / 1000, -_HEIGHT / 700])
_CAR = np.array([500, 600]) * abs(_SCALE)  # Where the car is on the canvas.
# From the car to the middle of the view, from there to a corner, in pixels of
# the window.
_AHEAD = 250
_RADIUS = math.hypot(500, 350)

Color = tuple[int, int, int]
# As Gymnasium's frames show them: shrinking takes 2 off all but black.
_BACKGROUND, _GRASS = (100, 202, 100), (100, 228, 100)
_HULL_COLOR, _WHEEL_COLOR, _STRIPE_COLOR = (202, 0, 0), (0, 0, 0), (75, 75, 75)
# What the polygons of the ground show, in the order of drawing, by the green
# of their colours in the game: grass, three greys of road, white, red.
_SHOWN: dict[int, Color] = {
  230: _GRASS,
  102: (100, 100, 100),
  104: (102, 102, 102),
  107: (105, 105, 105),
  255: (253, 253, 253),
  0: (253, 0, 0),
}
_EMPTY_CANVAS = np.full((_HEIGHT, _WIDTH, 3), _BACKGROUND, np.uint8)
_FIELD = car_racing.PLAYFIELD * np.array(
  [[(1, 1), (1, -1), (-1, -1), (-1, 1)]], np.float64
)
# Polygons seem larger by half a canvas pixel on each side, since OpenCV draws
# their outlines too; Gymnasium's seem larger by half a pixel of the window.
# The difference, in metres.
_SHRINKAGE = 0.05

_WHEELS = [complex(*p) * car_dynamics.SIZE for p in car_dynamics.WHEELPOS]
_WHEEL_WIDTH = car_dynamics.WHEEL_W * car_dynamics.SIZE
_WHEEL_RADIUS = car_dynamics.WHEEL_R * car_dynamics.SIZE
_STRIPE_ANGLE = 1.2  # Of the wheel's turn.
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
      grass = _grass()
      self._corners = np.concatenate([grass, corners])  # [P, 4, 2], metres.
      centers = self._corners.mean(1, keepdims=True)
      arms = self._corners - centers
      lengths = np.hypot(arms[..., :1], arms[..., 1:])
      self._corners -= _SHRINKAGE / lengths * arms
      self._x, self._y = centers[:, 0].T.copy()
      self._reach = lengths.max((1, 2))
      self._colors = np.array([(0, 230, 0)] * len(grass) + list(colors), float)
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
    zoom = 0.1 * car_racing.SCALE * max(
      1 - self.t, 0
    ) + car_racing.ZOOM * car_racing.SCALE * min(self.t, 1)
    angle = self.car.hull.angle
    canvas = self._draw_ground(zoom, angle)
    self._draw_car(canvas, zoom, angle)
    half = cv2.resize(
      canvas, (_WIDTH // 2, _HEIGHT // 2), interpolation=cv2.INTER_AREA
    )
    frame = np.zeros((_SIDE, _SIDE, 3), np.uint8)
    cv2.resize(
      half, (_SIDE, _ROWS), dst=frame[:_ROWS], interpolation=cv2.INTER_AREA
    )
    return frame

  def _draw_ground(self, zoom: float, angle: float) -> np.ndarray:
    """Returns a canvas with all but the car, uint8 [336, 384, 3]."""
    x, y = self.car.hull.position
    sin, cos = math.sin(angle), math.cos(angle)
    scale_x, scale_y = (zoom * _SCALE).tolist()
    # A metre along x or y moves a point on the canvas by these.
    along_x = np.array([scale_x * cos, -scale_y * sin])
    along_y = np.array([scale_x * sin, scale_y * cos])
    origin = _CAR - x * along_x - y * along_y

    def project(corners: np.ndarray) -> np.ndarray:
      return _fixed_point(
        corners[..., :1] * along_x + corners[..., 1:] * along_y + origin
      )

    radius = _RADIUS / zoom
    middle_x, middle_y = x - _AHEAD / zoom * sin, y + _AHEAD / zoom * cos
    if max(abs(middle_x), abs(middle_y)) + radius < car_racing.PLAYFIELD:
      canvas = _EMPTY_CANVAS.copy()
    else:
      canvas = np.zeros_like(_EMPTY_CANVAS)
      _fill(canvas, project(_FIELD), _BACKGROUND)

    reach = self._reach + radius
    distance_x, distance_y = self._x - middle_x, self._y - middle_y
    near = np.flatnonzero(
      distance_x * distance_x + distance_y * distance_y < reach * reach
    )
    batches = {green: [] for green in _SHOWN}
    greens = self._colors[near, 1].tolist()
    for green, polygon in zip(greens, project(self._corners[near])):
      batches[int(green)].append(polygon)
    for green, batch in batches.items():
      if batch:
        _fill(canvas, batch, _SHOWN[green])
    return canvas

  def _draw_car(self, canvas: np.ndarray, zoom: float, angle: float) -> None:
    """Draws the car, whose hull is always upright and at the same place."""
    wheels, stripes = [], []
    for center, wheel in zip(_WHEELS, self.car.wheels):
      forward = cmath.rect(_WHEEL_RADIUS, wheel.angle - angle) * 1j
      side = cmath.rect(_WHEEL_WIDTH, wheel.angle - angle)
      left, right = center - side, center + side
      wheels.append(
        (left + forward, right + forward, right - forward, left - forward)
      )
      begin, end = wheel.phase, wheel.phase + _STRIPE_ANGLE
      hidden = math.sin(begin) > 0, math.sin(end) > 0
      if not all(hidden):
        front, back = (
          forward * (math.copysign(1, math.cos(a)) if h else math.cos(a))
          for a, h in zip((begin, end), hidden)
        )
        stripes.append((left + front, right + front, right + back, left + back))
    corners = np.array(wheels + stripes).view(np.float64).reshape(-1, 4, 2)
    polygons = _fixed_point(corners * (zoom * _SCALE) + _CAR)
    _fill(canvas, polygons[:4], _WHEEL_COLOR)
    if stripes:
      _fill(canvas, polygons[4:], _STRIPE_COLOR)
    for batch in _hull(zoom):
      _fill(canvas, batch, _HULL_COLOR)


@functools.lru_cache(maxsize=128)  # The zoom changes for 50 steps only.
def _hull(zoom: float) -> list[list[np.ndarray]]:
  """Returns the hull's polygons on the canvas, each int32 [corners, 2]."""
  scale = zoom * car_dynamics.SIZE * _SCALE
  return [
    [_fixed_point(polygon * scale + _CAR) for polygon in batch]
    for batch in _HULL
  ]


def _grass() -> np.ndarray:
  """Returns the corners of the light squares, float64 [400, 4, 2], metres."""
  first = np.stack(np.meshgrid(*[np.arange(-20, 20, 2)] * 2), -1)
  square = np.array([(1, 0), (0, 0), (0, 1), (1, 1)])
  return car_racing.GRASS_DIM * (first.reshape(-1, 1, 2) + square)


def _fixed_point(corners: np.ndarray) -> np.ndarray:
  """Converts positions on the canvas to OpenCV's, int32, in 1/16 pixel.

  OpenCV's positions are pixels' centres.

  Args:
    corners: float64 [..., 2]: columns and rows.
  """
  fixed = np.rint(corners * (1 << _FRACTION_BITS) - (1 << _FRACTION_BITS) / 2)
  return fixed.astype(np.int32)


def _fill(
  canvas: np.ndarray, polygons: np.ndarray | Sequence[np.ndarray], color: Color
) -> None:
  cv2.fillPoly(canvas, list(polygons), color, cv2.LINE_8, _FRACTION_BITS)
