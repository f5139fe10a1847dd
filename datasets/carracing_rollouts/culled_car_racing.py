"""Gymnasium's `CarRacing-v3`: the same pixels, 2.5 times as fast.

A frame has some 750 polygons, of which about 30 are in view. Gymnasium rotates
each one in Python to find these. Here NumPy rotates all of them at once, with
the same float64 operations, and the same calls draw those in view in the same
order. `_render` describes further savings. Physics and rewards are Gymnasium's.
"""

import os

import numpy as np

# pygame prints a banner on import, which would corrupt a command's stdout.
os.environ.setdefault('PYGAME_HIDE_SUPPORT_PROMPT', '1')
from gymnasium.envs.box2d import car_racing
import pygame
from pygame import gfxdraw

# Corners of the playing field, float64 [4, 2], in metres.
FIELD = car_racing.PLAYFIELD * np.array([(1, 1), (1, -1), (-1, -1), (-1, 1)])

_WIDTH, _HEIGHT = car_racing.WINDOW_W, car_racing.WINDOW_H
# The surface is drawn upside down; the dashboard hides its first rows.
_DASHBOARD_ROWS = _HEIGHT // 8
_WORLD_ROWS = _HEIGHT - _DASHBOARD_ROWS
# Coordinates are truncated to integers; smoothed edges are a pixel wider.
_MARGIN = 2
# Distance from the car to the farthest corner of the view, in pixels.
_VIEW_RADIUS = np.hypot(_WIDTH / 2, _HEIGHT * 3 / 4)


def grass_corners() -> np.ndarray:
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


def pixels_per_metre(seconds: float) -> float:
  """Returns the zoom in pixels per metre, which grows in the first second."""
  return 0.1 * car_racing.SCALE * max(
    1 - seconds, 0
  ) + car_racing.ZOOM * car_racing.SCALE * min(seconds, 1)


class CulledCarRacing(car_racing.CarRacing):
  """`CarRacing` without render modes; only `step` returns frames."""

  def __init__(self):
    super().__init__()
    pygame.font.init()
    self._font = pygame.font.Font(pygame.font.get_default_font(), 42)
    self._surface = pygame.Surface((_WIDTH, _HEIGHT))
    self._narrow = pygame.Surface((car_racing.STATE_W, _HEIGHT))

  def _create_track(self) -> bool:
    success = super()._create_track()
    if success:
      polygons = [(corners, self.grass_color) for corners in grass_corners()]
      polygons += self.road_poly
      corners, self._colors = zip(*polygons)
      self._corners = np.array(corners).transpose(2, 1, 0).copy()  # [2, 4, P]
    return success

  def _render(self, mode: str) -> np.ndarray:
    """Draws a frame as `CarRacing._render` does.

    The surface and the font are reused. `smoothscale` shrinks each row first,
    then each column; flipping in between is cheaper, as the image is ten times
    narrower.

    Args:
      mode: `state_pixels`.

    Returns:
      uint8 [96, 96, 3], 0..255.
    """
    assert mode == 'state_pixels' and self.car is not None
    self.surf = self._surface
    angle = -self.car.hull.angle
    zoom = pixels_per_metre(self.t)
    x, y = self.car.hull.position
    scroll = pygame.Vector2(-x * zoom, -y * zoom).rotate_rad(angle)
    translation = (_WIDTH / 2 + scroll[0], _HEIGHT / 4 + scroll[1])

    self._render_road(zoom, translation, angle)
    self.car.draw(self.surf, zoom, translation, angle, draw_particles=False)
    world = self._shrink_rows(_DASHBOARD_ROWS, _WORLD_ROWS)
    self._narrow.blit(pygame.transform.flip(world, False, True), (0, 0))

    # The world's rows are no longer needed; indicators stay in the dashboard's.
    self._render_indicators(_WIDTH, _HEIGHT)
    text = self._font.render(
      f'{self.reward:04.0f}', True, (255, 255, 255), (0, 0, 0)
    )
    center = (60, _HEIGHT - _HEIGHT * 2.5 / 40.0)
    self.surf.blit(text, text.get_rect(center=center))
    dashboard = self._shrink_rows(_WORLD_ROWS, _DASHBOARD_ROWS)
    self._narrow.blit(dashboard, (0, _WORLD_ROWS))
    return self._create_image_array(
      self._narrow, (car_racing.STATE_W, car_racing.STATE_H)
    )

  def _shrink_rows(self, first: int, count: int) -> pygame.Surface:
    rows = self._surface.subsurface((0, first, _WIDTH, count))
    return pygame.transform.smoothscale(rows, (car_racing.STATE_W, count))

  def _render_road(
    self, zoom: float, translation: tuple[float, float], angle: float
  ) -> None:
    self._render_background(zoom, translation, angle)
    # Rotates like `Vector2.rotate_rad`, with the same sine and cosine.
    cos, sin = pygame.Vector2(1, 0).rotate_rad(angle)
    x, y = self._corners
    columns = (cos * x - sin * y) * zoom + translation[0]
    rows = (sin * x + cos * y) * zoom + translation[1]
    in_view = np.flatnonzero(
      (columns.max(0) >= -_MARGIN)
      & (columns.min(0) <= _WIDTH + _MARGIN)
      & (rows.max(0) >= _DASHBOARD_ROWS - _MARGIN)
      & (rows.min(0) <= _HEIGHT + _MARGIN)
    )
    polygons = np.stack([columns[:, in_view].T, rows[:, in_view].T], axis=-1)
    for i, polygon in zip(in_view.tolist(), polygons.tolist()):
      # Read per frame: tiles change colour in place when the car touches them.
      color = [int(c) for c in self._colors[i]]
      gfxdraw.aapolygon(self._surface, polygon, color)
      gfxdraw.filled_polygon(self._surface, polygon, color)

  def _render_background(
    self, zoom: float, translation: tuple[float, float], angle: float
  ) -> None:
    assert self.car is not None
    x, y = self.car.hull.position
    if max(abs(x), abs(y)) + _VIEW_RADIUS / zoom < car_racing.PLAYFIELD - 1:
      # `Surface.fill` bypasses the cache, so all later drawing would wait for
      # memory and a step would take 1.4 times as long.
      # The view locks the surface while it lives, so it gets no name: samplers
      # of stacks, such as Dask's, would keep it alive.
      pygame.surfarray.pixels2d(self._surface)[:] = self._surface.map_rgb(
        self.bg_color
      )
      return
    self._surface.fill(0)
    self._draw_colored_polygon(
      self._surface,
      FIELD,
      self.bg_color,
      zoom,
      translation,
      angle,
      clip=False,
    )
