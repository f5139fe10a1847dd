"""Gymnasium's `CarRacing` and its scenery, for the simulators that draw it."""

import os

import numpy as np

# pygame prints a banner on import, which would corrupt a command's stdout.
os.environ.setdefault('PYGAME_HIDE_SUPPORT_PROMPT', '1')
from gymnasium.envs.box2d import car_racing

# Corners of the playing field, float64 [4, 2], in metres.
FIELD = car_racing.PLAYFIELD * np.array([(1, 1), (1, -1), (-1, -1), (-1, 1)])


def grass() -> np.ndarray:
  """Returns the corners of the light squares, float64 [400, 4, 2], metres."""
  side = car_racing.GRASS_DIM
  return np.array(
    [
      [
        # Not `side * (x + 1)`, which rounds differently from Gymnasium.
        (side * x + side, side * y),
        (side * x, side * y),
        (side * x, side * y + side),
        (side * x + side, side * y + side),
      ]
      for x in range(-20, 20, 2)
      for y in range(-20, 20, 2)
    ]
  )


def zoom(seconds: float) -> float:
  """Returns the zoom in pixels per metre, which grows in the first second."""
  return 0.1 * car_racing.SCALE * max(
    1 - seconds, 0
  ) + car_racing.ZOOM * car_racing.SCALE * min(seconds, 1)
