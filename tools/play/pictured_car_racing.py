"""The exact simulator: frames for models, and larger pictures for people."""

from carracing_rollouts import culled_car_racing
from gymnasium.envs.box2d import car_racing
import numpy as np
import pygame

# The game's aspect without its dashboard, 10:7; frames are squeezed to squares.
SIZE = 640, 448


class PicturedCarRacing(culled_car_racing.CulledCarRacing):
  """`CarRacing` that also keeps a large picture of its last frame."""

  _picture: pygame.Surface

  def picture(self) -> np.ndarray:
    """Returns the last frame without its dashboard, uint8 [448, 640, 3]."""
    return pygame.surfarray.array3d(self._picture).swapaxes(0, 1)

  def _shrink_rows(self, first: int, count: int) -> pygame.Surface:
    if count > car_racing.WINDOW_H / 2:  # The world and not the dashboard.
      rows = self._surface.subsurface((0, first, car_racing.WINDOW_W, count))
      picture = pygame.transform.smoothscale(rows, SIZE)
      self._picture = pygame.transform.flip(picture, False, True)
    return super()._shrink_rows(first, count)
