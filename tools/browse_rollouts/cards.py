"""An episode and its origin → its card on an HTML page."""

from typing import NamedTuple

from carracing_data import errors
from carracing_data import rlds_steps
from carracing_rollouts import environment
from carracing_rollouts import schema
from carracing_rollouts import scores
import markupsafe
import numpy as np
from tools.showing import origins
from tools.showing import webpages

_FRAMES = 8  # Of an episode on its card.
_PLOT_COLUMNS = 200
_PLOT_HEIGHT = 20


class Facts(NamedTuple):
  """Facts of an episode.

  Attributes:
    title: split and index in the split.
    identifier: of the card on its page.
    driver: who drove.
    return_: sum of the rewards.
    completed: whether the lap was completed.
  """

  title: str
  identifier: str
  driver: str
  return_: float
  completed: bool


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


class Card(NamedTuple):
  """What a page shows of an episode.

  Attributes:
    facts: what the first page needs, too.
    num_steps: number of transitions, N.
    ending: how the episode ended.
    track_seed: seed of the track.
    video: address of the video.
    poster: URL of a frame, shown until the video plays.
    strip: URL of frames side by side, evenly spread over the episode.
    plots: actions over time, by name.
  """

  facts: Facts
  num_steps: int
  ending: str
  track_seed: int
  video: str
  poster: markupsafe.Markup
  strip: markupsafe.Markup
  plots: dict[str, Plot]


def make(
  title: str,
  episode: schema.Episode,
  origin: origins.Origin,
  driver: str,
  video: str,
) -> Card:
  """Makes the card of an episode.

  Args:
    title: split and index in the split.
    episode: the episode.
    origin: where it comes from.
    driver: who drove, see `origins.by_driver`.
    video: address of its video.

  Raises:
    errors.DatasetError: the episode breaks a promise, e.g. a reward is NaN.
  """
  for problem in rlds_steps.broken_promises(vars(episode)):
    raise errors.DatasetError(
      f'episode {title}: {problem}; diagnose it with python -m tools.verify,'
      ' with the same --dataset and --data_dir'
    )
  summary = rlds_steps.summarize(vars(episode))
  last_reward = float(episode.reward[-2])
  moments = np.linspace(0, len(episode) - 1, _FRAMES).round().astype(int)
  frames = episode.observation[moments]
  return Card(
    facts=Facts(
      title=title,
      identifier=title.replace(' ', '-'),
      driver=driver,
      return_=summary.total_reward,
      completed=bool(
        environment.lap_completed(summary.terminated, last_reward)
      ),
    ),
    num_steps=summary.num_steps - 1,
    ending=scores.ending(summary.terminated, last_reward),
    track_seed=origin.track_seed,
    video=video,
    poster=webpages.picture(frames[_FRAMES // 2]),
    strip=webpages.picture(_strip(frames)),
    plots={
      name: plot(values, low, high)
      for name, values, low, high in zip(
        rlds_steps.ACTION_NAMES,
        episode.action[:-1].T,
        rlds_steps.ACTION_LOW,
        rlds_steps.ACTION_HIGH,
      )
    },
  )


def _strip(frames: np.ndarray) -> np.ndarray:
  """Returns frames side by side, with a white line between them."""
  line = np.full((len(frames), frames.shape[1], 1, 3), 255, np.uint8)
  lined = np.concatenate([frames, line], axis=2)
  return np.concatenate([*lined], axis=1)[:, :-1]


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
