"""An episode and who drove it → what a page shows of it."""

from typing import Any, NamedTuple

from carracing_data import rlds_steps
from carracing_rollouts import schema
import numpy as np
from tools.showing import pictures
from tools.showing import rollout_statistics
from tools.showing import webpages

_FRAMES = 8  # Of an episode on its page.
_PLOT_COLUMNS = 200
_PLOT_HEIGHT = 20


class Plot(NamedTuple):
  """Values over time, as numbers for an SVG.

  Attributes:
    columns: width.
    height: height.
    zero: y of the value 0.
    path: path, as SVG draws it.
  """

  columns: int
  height: int
  zero: float
  path: str


def title(key: rollout_statistics.Key) -> str:
  """Returns the name of an episode for people."""
  return f'{key[0]} {key[1]}'


def anchor(key: rollout_statistics.Key) -> str:
  """Returns the name of an episode in addresses."""
  return f'{key[0]}-{key[1]}'


def show(
  key: rollout_statistics.Key,
  episode: schema.Episode,
  facts: rollout_statistics.Facts,
  driver: str,
  track_seed: int,
  video: str,
) -> dict[str, Any]:
  """Returns what a page shows of an episode; the strip is evenly spread."""
  moments = np.linspace(0, len(episode) - 1, _FRAMES).round().astype(int)
  frames = episode.observation[moments]
  low, high = rlds_steps.ACTION_LOW, rlds_steps.ACTION_HIGH
  series = zip(rlds_steps.ACTION_NAMES, episode.action[:-1].T, low, high)
  plots = {name: plot(*values) for name, *values in series}
  if episode.is_intervention.any():
    imposed = episode.is_intervention[:-1].astype(np.float32)
    plots['imposed'] = plot(imposed, 0.0, 1.0)
  return {
    'title': title(key),
    'anchor': anchor(key),
    'facts': facts,
    'driver': driver,
    'track_seed': track_seed,
    'video': video,
    # Shown until the video plays.
    'poster': webpages.picture(frames[_FRAMES // 2]),
    'strip': webpages.picture(pictures.side_by_side(frames)),
    'plots': plots,
  }


def plot(values: np.ndarray, low: float, high: float) -> Plot:
  """Draws values over time.

  In each column a line connects the lowest and the highest value, so that no
  extreme is lost.

  Args:
    values: float [N], low..high.
    low: value at the bottom.
    high: value at the top.
  """
  columns = min(len(values), _PLOT_COLUMNS)
  starts = np.arange(columns) * len(values) // columns
  scale = _PLOT_HEIGHT / (high - low)
  y = (scale * (high - values)).round().astype(int)
  bottom = np.maximum.reduceat(y, starts)
  top = np.minimum.reduceat(y, starts)
  lines = (f'V{a}V{b}h1' for a, b in zip(bottom, top))
  path = f'M0 {bottom[0]}' + ''.join(lines)
  return Plot(columns, _PLOT_HEIGHT, float(scale * high), path)
