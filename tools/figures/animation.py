"""The agent at work as a short animation for the README.

Three panels: the game, V's reconstruction of each frame, and M's dream, which
takes the same actions and restarts from the game every two seconds.
"""

from collections.abc import Mapping
import functools
from pathlib import Path

from carracing_data import files
from gymnasium.envs.box2d import car_racing
from models import agent
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont
from tools.play import worlds

_FIRST_STEP = 100  # The camera has zoomed in, and a dream begins.
_STEPS = 500  # A fast lap has 600.
_EVERY = 3  # A third of the game's frames is enough for the eye.
_TEMPERATURE = 1.0
_PANEL = 300, 210  # Width and height: the aspect of the game.
_GAP, _TITLE = 6, 24
_QUALITY = 60  # Of WebP, 0..100.


def save(path: Path, driver: agent.Agent, track: int) -> None:
  """Saves an animated WebP of ten seconds on a development track, by index.

  It repeats for ever.

  Raises:
    errors.UserError: the file cannot be written.
  """
  path = files.claim_file(path)
  game = worlds.Game(driver)
  view = game.reset(track)
  frames = []
  while view.step < _FIRST_STEP + _STEPS and not view.ending:
    if view.step >= _FIRST_STEP and view.step % _EVERY == 0:
      frames.append(_frame(view.pictures))
    view = game.step(None, _TEMPERATURE)
  game.close()
  write = functools.partial(
    frames[0].save,
    format='WEBP',
    save_all=True,
    append_images=frames[1:],
    duration=1000 * _EVERY // car_racing.FPS,
    loop=0,
    quality=_QUALITY,
  )
  files.replace(path, write)


def _frame(pictures: Mapping[str, np.ndarray]) -> Image.Image:
  """Draws pictures with their titles side by side."""
  width, height = _PANEL
  size = len(pictures) * (width + _GAP) - _GAP, _TITLE + height
  frame = Image.new('RGB', size, 'white')
  draw = ImageDraw.Draw(frame)
  font = ImageFont.load_default(size=14)
  for i, (title, picture) in enumerate(pictures.items()):
    left = i * (width + _GAP)
    draw.text((left, 3), title, 'black', font)
    resized = Image.fromarray(picture).resize(_PANEL, Image.Resampling.BICUBIC)
    frame.paste(resized, (left, _TITLE))
  return frame
