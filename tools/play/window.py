"""A window in which a person drives, or watches the agent, in real time."""

from collections.abc import Sequence
import warnings

from carracing_data import display
from carracing_rollouts import environment
from gymnasium.envs.box2d import car_racing
import pygame
from tools.driving import keyboard
from tools.play import worlds

TEMPERATURES = 0.1, 0.5, 1.0, 1.15, 1.5
_HELP = (
  'arrows, WASD: drive    C: agent or person    T: temperature    R: restart'
  '    space: pause    Esc: leave'
)
_MARGIN = 16
_TITLE_HEIGHT = 28
_SMALL_SIZE = 300, 210  # Two small pictures and a title are as high as a large.
_COLUMNS = 16, 166, 366, 506  # Of the numbers below the pictures.
_BACKGROUND = 24, 26, 30
_TEXT = 235, 235, 235
_DIM = 150, 155, 165
_EMPTY = 52, 56, 64
_BLUE, _GREEN, _RED = (90, 160, 250), (90, 200, 120), (235, 95, 85)


class Window:
  """A person, an agent and a world in a window.

  Attributes:
    surface: what the window shows.
    view: the last step.
    agent_drives: whether the agent chooses the actions.
    temperature: sampling temperature of the dreams.
    seed: seed of the episode.
    running: whether the person has not left.
  """

  def __init__(
    self,
    world: worlds.Game | worlds.Dream,
    seed: int,
    agent_drives: bool,
    temperature: float,
  ):
    """Opens the window; a restart takes the next seed.

    Raises:
      errors.UserError: there is no display.
    """
    self._world = world
    self.seed, self.agent_drives = seed, agent_drives
    self.temperature, self.running = temperature, True
    self._keys = keyboard.Keys()
    self._paused = False
    width, height = worlds.SIZE
    small_width, small_height = _SMALL_SIZE
    right, top = width + 2 * _MARGIN, _TITLE_HEIGHT
    self._below = top + height
    self._rectangles = (
      pygame.Rect(_MARGIN, top, width, height),
      pygame.Rect(right, top, small_width, small_height),
      pygame.Rect(right, self._below - small_height, small_width, small_height),
    )
    size = right + small_width + _MARGIN, self._below + 128
    with display.connected():
      # Compiles all programs, so that the window does not open frozen.
      world.reset(seed)
      world.step(None, temperature)
      with warnings.catch_warnings(action='ignore'):  # Of a slow renderer.
        # The person may enlarge the window.
        self.surface = pygame.display.set_mode(
          size, pygame.RESIZABLE | pygame.SCALED
        )
    pygame.font.init()
    self._fonts = {x: pygame.font.Font(None, 2 * x) for x in (22, 25, 36)}
    self._restart()

  def run(self, max_frames: int | None = None) -> None:
    """Plays in real time, or slower if the machine is slower.

    Ends after `max_frames`; None for no limit.
    """
    clock = pygame.time.Clock()
    frames = 0
    while self.running and (max_frames is None or frames < max_frames):
      self.advance()
      pygame.display.flip()
      clock.tick(car_racing.FPS)
      frames += 1
      if frames % car_racing.FPS == 0:
        pygame.display.set_caption(
          f'World Models: {clock.get_fps():.0f} steps per second'
        )

  def close(self) -> None:
    """Closes the window."""
    pygame.display.quit()

  def advance(self) -> None:
    """Handles the person's keys, makes a step and draws it."""
    for event in pygame.event.get():
      self._handle(event)
    if self.running and not self._paused and not self.view.ending:
      action = None if self.agent_drives else self._keys.action()
      self.view = self._world.step(action, self.temperature)
      if self.view.step == environment.MAX_STEPS:
        self._total_in_time = self.view.total
    self._draw()

  def _handle(self, event: pygame.event.Event) -> None:
    self._keys.handle(event)
    if event.type == pygame.QUIT:
      self.running = False
    elif event.type == pygame.KEYDOWN:
      if event.key == pygame.K_ESCAPE:
        self.running = False
      elif event.key == pygame.K_c:
        self.agent_drives = not self.agent_drives
      elif event.key == pygame.K_t:
        back = bool(getattr(event, 'mod', 0) & pygame.KMOD_SHIFT)
        self.temperature = _next_temperature(self.temperature, back)
      elif event.key == pygame.K_r:
        self.seed += 1
        self._restart()
      elif event.key == pygame.K_SPACE:
        self._paused = not self._paused

  def _restart(self) -> None:
    self.view = self._world.reset(self.seed)
    self._total_in_time: float | None = None
    self._paused = False
    self._draw()

  def _draw(self) -> None:
    self.surface.fill(_BACKGROUND)
    for rectangle, (title, picture) in zip(
      self._rectangles, self.view.pictures.items(), strict=True
    ):
      self._write(title, 22, _DIM, (rectangle.x, rectangle.y - 22))
      picture = pygame.surfarray.make_surface(picture.swapaxes(0, 1))
      if picture.get_size() != rectangle.size:
        picture = pygame.transform.smoothscale(picture, rectangle.size)
      self.surface.blit(picture, rectangle)
    self._draw_numbers()
    self._draw_action()
    y = self._below + 76
    self._write(self._message(), 25, _TEXT, (_MARGIN, y))
    self._write(_HELP, 22, _DIM, (_MARGIN, y + 28))

  def _draw_numbers(self) -> None:
    view = self.view
    total = 'unknown' if view.total is None else f'{view.total:.1f}'
    numbers = [
      (self._world.total_name, total),
      ('Step', f'{view.step}  ({view.step / car_racing.FPS:.1f} s)'),
      ('Temperature', f'{self.temperature:g}'),
    ]
    if view.speed is not None:
      numbers.append(('Speed', f'{view.speed:.0f} m/s'))
    for x, (name, text) in zip(_COLUMNS, numbers):
      self._write(name, 22, _DIM, (x, self._below + 12))
      self._write(text, 36, _TEXT, (x, self._below + 34))

  def _draw_action(self) -> None:
    """Draws the last action: bars from the middle, or from the left."""
    steering, gas, brake = self.view.action
    left = self._rectangles[1].x
    width = 200
    for i, (name, first, last, color) in enumerate(
      (
        ('steering', min(steering, 0), max(steering, 0), _BLUE),
        ('gas', -1, 2 * gas - 1, _GREEN),
        ('brake', -1, 2 * brake - 1, _RED),
      )
    ):
      y = self._below + 14 + 20 * i
      self._write(name, 22, _DIM, (left, y - 2))
      bar = pygame.Rect(left + 100, y, width, 12)
      pygame.draw.rect(self.surface, _EMPTY, bar)
      start, end = (round((x + 1) / 2 * width) for x in (first, last))
      pygame.draw.rect(
        self.surface, color, (bar.x + start, bar.y, end - start, bar.height)
      )

  def _message(self) -> str:
    who = 'The agent drives' if self.agent_drives else 'You drive'
    if self.view.ending:
      return f'{self.view.ending}. Press R to start again.'
    if self._paused:
      return f'{who}: paused'
    limit = environment.MAX_STEPS
    if self.view.step > limit and self._total_in_time is not None:
      return (
        f'{who}. At the time limit of {limit} steps:'
        f' {self._world.total_name.lower()} {self._total_in_time:.1f}'
      )
    return who

  def _write(
    self, text: str, size: int, color: Sequence[int], place: tuple[int, int]
  ) -> None:
    # At its own size the font spaces letters badly and loses decimal points.
    rendered = self._fonts[size].render(text, True, color)
    self.surface.blit(pygame.transform.smoothscale_by(rendered, 0.5), place)


def _next_temperature(temperature: float, back: bool) -> float:
  """Returns the next of `TEMPERATURES`, or the one before; they are a cycle."""
  order = TEMPERATURES[::-1] if back else TEMPERATURES
  further = [x for x in order if (x < temperature if back else x > temperature)]
  return (further or order)[0]
