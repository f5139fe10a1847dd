"""A person at the keyboard: pressed keys → actions, in a window of the game."""

from collections.abc import Iterable, Iterator, Sequence
import contextlib
import os

from carracing_data import errors
from carracing_rollouts import environment  # Silences pygame's greeting.
from gymnasium.envs.box2d import car_racing
import numpy as np
import pygame

NAME = 'keyboard'  # Of a person in action logs.
_CAPTION = 'arrow keys: steer, gas, brake · Esc: stop'
_BRAKE = 0.8  # A full brake locks the wheels.
_DRIVER = 'SDL_VIDEODRIVER'
_ARROWS = pygame.K_LEFT, pygame.K_RIGHT, pygame.K_UP, pygame.K_DOWN


class Stopped(Exception):
  """The person closed the window or pressed Esc."""


class Keys:
  """The keys that a person holds in a window, and the action they stand for."""

  def __init__(self, held: Iterable[int] = ()):
    """Begins with the codes of keys that are held already."""
    self._held = set(held)

  def handle(self, event: pygame.event.Event) -> None:
    """Notes an event of pygame; other events than those of keys do nothing."""
    if event.type == pygame.KEYDOWN:
      self._held.add(event.key)
    elif event.type == pygame.KEYUP:
      self._held.discard(event.key)
    elif event.type == pygame.WINDOWFOCUSLOST:
      self._held.clear()  # Other windows get the events of their release.

  def action(self) -> np.ndarray:
    """Returns the action of the arrows, float32 [3]."""
    left, right, gas, brake = (float(key in self._held) for key in _ARROWS)
    return np.array([right - left, gas, _BRAKE * brake], np.float32)


@contextlib.contextmanager
def display() -> Iterator[None]:
  """Connects to the display and reports its errors.

  Raises:
    errors.UserError: there is no display, or no window opens.
  """
  try:
    pygame.display.init()
    # SDL's last resort, where nobody would see the window.
    hidden = 'offscreen'
    if pygame.display.get_driver() == hidden != os.environ.get(_DRIVER):
      raise pygame.error('there is no display')
    yield
  except pygame.error as error:
    raise errors.UserError(
      f'cannot open a window ({error}); use a machine with a display, or set'
      f' {_DRIVER}=dummy to run without a window'
    ) from None


class _ShownCarRacing(car_racing.CarRacing):
  def __init__(self):
    super().__init__(render_mode='human')


class Environments(environment.Environments):
  """The stock game in a window, in real time."""

  GAME = _ShownCarRacing

  def reset(self) -> np.ndarray:
    """Opens the window; see `environment.Environments.reset`.

    Raises:
      errors.UserError: there is no display.
    """
    with display():
      return super().reset()


class Person:
  """The policy of a person, who watches the window and presses keys.

  Calling it raises `Stopped` when the person stops before the end.
  """

  def initial_carry(self, seeds: Sequence[np.random.SeedSequence]) -> tuple[()]:
    del seeds
    pygame.display.set_caption(_CAPTION)
    held = pygame.key.get_pressed()  # Since the episode before.
    self._keys = Keys(key for key in _ARROWS if held[key])
    return ()

  def __call__(
    self,
    observation: np.ndarray,
    carry: tuple[()],
    imposed: np.ndarray | None = None,
  ) -> tuple[np.ndarray, tuple[()]]:
    del observation, imposed
    for event in pygame.event.get():
      self._keys.handle(event)
      escape = event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE
      if event.type == pygame.QUIT or escape:
        raise Stopped
    return self._keys.action()[None], carry
