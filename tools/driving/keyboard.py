"""A person at the keyboard drives: track → actions and rewards."""

from collections.abc import Iterable, Iterator
import contextlib
import os
from typing import Any, NamedTuple

from carracing_data import errors
import gymnasium
import numpy as np

_CAPTION = 'arrow keys: steer, gas, brake · Esc: stop'
_BRAKE = 0.8  # A full brake locks the wheels.
_DRIVER = 'SDL_VIDEODRIVER'


class Driven(NamedTuple):
  """An episode of N steps.

  Attributes:
    action: float32 [N, 3]: steering −1..1, gas 0..1, brake 0..1.
    reward: float32 [N].
    terminated: whether the last step ended it; if not, the step limit did.
  """

  action: np.ndarray
  reward: np.ndarray
  terminated: bool


class Stopped(Exception):
  """The person closed the window or pressed Esc."""


class Keys:
  """The keys that a person holds in a window, and the action they stand for."""

  def __init__(self, held: Iterable[int] = ()):
    """Begins with the codes of keys that are held already."""
    self._held = set(held)

  def handle(self, event: Any) -> None:
    """Notes an event of pygame; other events than those of keys do nothing."""
    import pygame  # Prints a greeting.

    if event.type == pygame.KEYDOWN:
      self._held.add(event.key)
    elif event.type == pygame.KEYUP:
      self._held.discard(event.key)
    elif event.type == pygame.WINDOWFOCUSLOST:
      self._held.clear()  # Other windows get the events of their release.

  def action(self) -> np.ndarray:
    """Returns the action of the arrows, float32 [3]."""
    left, right, gas, brake = (float(key in self._held) for key in _arrows())
    return np.array([right - left, gas, _BRAKE * brake], np.float32)


def _arrows() -> tuple[int, int, int, int]:
  import pygame  # Prints a greeting.

  return pygame.K_LEFT, pygame.K_RIGHT, pygame.K_UP, pygame.K_DOWN


@contextlib.contextmanager
def display() -> Iterator[None]:
  """Connects to the display and reports its errors.

  Raises:
    errors.UserError: there is no display, or no window opens.
  """
  import pygame  # Prints a greeting.

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


def drive(track_seed: int, max_steps: int) -> Driven:
  """Shows the stock game in a window, in real time, until the episode ends.

  Args:
    track_seed: seed of the track.
    max_steps: steps after which the episode is truncated.

  Raises:
    Stopped: the person stopped before the end.
    errors.UserError: there is no display.
  """
  import pygame  # Prints a greeting.

  with (
    display(),
    contextlib.closing(
      gymnasium.make(
        'CarRacing-v3', render_mode='human', max_episode_steps=max_steps
      )
    ) as game,
  ):
    game.reset(seed=track_seed)
    pygame.display.set_caption(_CAPTION)
    held = pygame.key.get_pressed()  # Since the episode before.
    keys = Keys(key for key in _arrows() if held[key])
    actions, rewards = [], []
    while True:
      for event in pygame.event.get():
        keys.handle(event)
        escape = event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE
        if event.type == pygame.QUIT or escape:
          raise Stopped
      actions.append(keys.action())
      _, reward, terminated, truncated, _ = game.step(actions[-1])
      rewards.append(reward)
      if terminated or truncated:
        return Driven(
          np.stack(actions), np.array(rewards, np.float32), bool(terminated)
        )
