"""Connects to the display, before a window is opened."""

from collections.abc import Iterator
import contextlib
import os

from carracing_data import errors

os.environ.setdefault('PYGAME_HIDE_SUPPORT_PROMPT', '1')
import pygame

_DRIVER = 'SDL_VIDEODRIVER'


@contextlib.contextmanager
def connected() -> Iterator[None]:
  """Connects to the display, and reports errors of what opens a window.

  Raises:
    errors.UserError: there is no display, or no window opens.
  """
  try:
    pygame.display.init()
    # SDL's last resort, where nobody would see the window. Beside TensorFlow a
    # window there would crash the process.
    hidden = 'offscreen'
    if pygame.display.get_driver() == hidden != os.environ.get(_DRIVER):
      raise pygame.error('there is no display')
    yield
  except pygame.error as error:
    raise errors.UserError(
      f'cannot open a window ({error}); use a machine with a display, or set'
      f' {_DRIVER}=dummy to run without a window'
    ) from None
