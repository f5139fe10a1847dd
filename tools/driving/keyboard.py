"""A person at the keyboard: pressed keys → actions, in a window of the game."""

from collections.abc import Iterable, Sequence

from carracing_data import display
from carracing_rollouts import environment  # Silences pygame's greeting.
from gymnasium.envs.box2d import car_racing
import numpy as np
import pygame

NAME = 'keyboard'  # Of a person in action logs.
_CAPTION = 'arrow keys or WASD: steer, gas, brake · Esc: stop'
_BRAKE = 0.8  # A full brake locks the wheels.
_KEYS = (
  {pygame.K_LEFT, pygame.K_a},
  {pygame.K_RIGHT, pygame.K_d},
  {pygame.K_UP, pygame.K_w},
  {pygame.K_DOWN, pygame.K_s},
)


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
    """Returns the action of the arrows, or of A, D, W and S, float32 [3]."""
    left, right, gas, brake = (bool(keys & self._held) for keys in _KEYS)
    return np.array([right - left, gas, _BRAKE * brake], np.float32)


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
    with display.connected():
      return super().reset()


class Person:
  """The policy of a person, who watches the window and presses keys.

  Calling it raises `Stopped` when the person stops before the end.
  """

  def initial_carry(self, seeds: Sequence[np.random.SeedSequence]) -> tuple[()]:
    del seeds
    pygame.display.set_caption(_CAPTION)
    held = pygame.key.get_pressed()  # Since the episode before.
    self._keys = Keys(key for keys in _KEYS for key in keys if held[key])
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
