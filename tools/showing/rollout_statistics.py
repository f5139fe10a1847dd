"""Statistics of a rollouts dataset, which is read once → tables and frames."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from carracing_data import prepared_dataset
from carracing_data import progress
from carracing_data import rlds_steps
from carracing_rollouts import environment
from carracing_rollouts import loader
from carracing_rollouts import schema
from carracing_rollouts import scores
from carracing_rollouts import who_drove
from matplotlib import axes as axes_lib
from matplotlib import figure
from matplotlib import ticker
import numpy as np

_SHEET_ROWS = 6
_SHEET_COLUMNS = 10
SHEET_TITLES = [
  f'{100 * i // (_SHEET_COLUMNS - 1)} %' for i in range(_SHEET_COLUMNS)
]
_BINS, _FEW_BINS = 40, 10
_RETURNS = 'return, mean ± std', 'lowest', 'highest'
SPLIT_HEAD = ('split', 'episodes', 'terminated', 'steps', *_RETURNS)
_DRIVER_HEAD = ('driven by', 'episodes', *_RETURNS)
_ACTION_HEAD = ('action', 'mean', 'std', '5%', 'median', '95%')
Key = tuple[str, int]  # Of an episode: its split and its index there.


class Facts(NamedTuple):
  """Facts of an episode.

  Attributes:
    num_steps: number of steps, of which the last one is no transition.
    return_: sum of the rewards.
    completed: whether the lap was completed.
    ending: how the episode ended, for people.
  """

  num_steps: int
  return_: float
  completed: bool
  ending: str


class Table(NamedTuple):
  """A table, of text."""

  head: Sequence[str]
  rows: Sequence[Sequence[str]]


class Statistics(NamedTuple):
  """Statistics of a rollouts dataset.

  Attributes:
    facts: facts of its episodes, in order.
    splits: a table of its splits.
    drivers: a table of its drivers.
    actions: a table of its actions.
    values: what histograms show, float [N] each, by name.
    mean_frame: float64 [64, 64, 3], 0..255.
    sheet: frames of a few episodes of every driver, see `sheet`.
  """

  facts: Mapping[Key, Facts]
  splits: Table
  drivers: Table
  actions: Table
  values: Mapping[str, np.ndarray]
  mean_frame: np.ndarray
  sheet: Mapping[str, np.ndarray]


class Collector:
  """Collects what statistics consist of, an episode at a time."""

  def __init__(self):
    self._facts: dict[Key, Facts] = {}
    self._actions: dict[Key, np.ndarray] = {}
    self._frame_sum = np.zeros((64, 64, 3))

  def add(self, key: Key, episode: schema.Episode) -> Facts:
    """Adds an episode, in any order, and returns its facts."""
    summary = rlds_steps.summarize(vars(episode))
    ended, last_reward = summary.terminated, float(episode.reward[-2])
    self._facts[key] = Facts(
      summary.num_steps,
      summary.total_reward,
      bool(environment.lap_completed(ended, last_reward)),
      scores.ending(ended, last_reward),
    )
    self._actions[key] = episode.action[:-1]
    # Exact, and therefore the same in any order.
    self._frame_sum += episode.observation.sum(axis=0, dtype=np.float64)
    return self._facts[key]

  def statistics(
    self,
    prepared: prepared_dataset.Dataset,
    driven: Mapping[str, Sequence[Key]],
  ) -> Statistics:
    """Returns the statistics of all episodes that were added.

    Args:
      prepared: their dataset.
      driven: all or more of them by driver, see `who_drove.by_driver`.
    """
    facts = dict(sorted(self._facts.items()))
    actions = np.concatenate([self._actions[key] for key in facts])
    here = {title: [x for x in driven[title] if x in facts] for title in driven}
    here = {title: keys for title, keys in here.items() if keys}
    returns = np.array([x.return_ for x in facts.values()])
    lengths = np.array([x.num_steps for x in facts.values()])
    return Statistics(
      facts=facts,
      splits=Table(
        SPLIT_HEAD, [split_row(prepared, split) for split in schema.SPLITS]
      ),
      drivers=Table(
        _DRIVER_HEAD,
        [
          _driver_row(title, np.array([facts[key].return_ for key in keys]))
          for title, keys in here.items()
        ],
      ),
      actions=Table(
        _ACTION_HEAD, [*map(_action_row, rlds_steps.ACTION_NAMES, actions.T)]
      ),
      values={
        'steps of an episode': lengths,
        'return of an episode': returns,
        **dict(zip(rlds_steps.ACTION_NAMES, actions.T)),
      },
      mean_frame=self._frame_sum / lengths.sum(),
      sheet=sheet(prepared, here),
    )


def read(
  prepared: prepared_dataset.Dataset, most: int | None = None
) -> Statistics:
  """Reads a dataset once.

  Args:
    prepared: a dataset of rollouts, see `prepared_dataset.find`.
    most: largest number of episodes of a split that are read, the first ones;
      None: all of them.

  Raises:
    errors.DatasetError: the dataset is damaged.
  """
  collected = Collector()
  for split in schema.SPLITS:
    episodes = loader.episodes(str(prepared.folder), split=split)
    shown = progress.each(episodes[:most], split, 'episodes')
    for index, episode in enumerate(shown):
      collected.add((split, index), episode)
  driven = who_drove.by_driver(who_drove.of_dataset(prepared))
  return collected.statistics(prepared, driven)


def sheet(
  prepared: prepared_dataset.Dataset, driven: Mapping[str, Sequence[Key]]
) -> dict[str, np.ndarray]:
  """Returns frames of a few episodes, as many of each driver.

  Args:
    prepared: a dataset of rollouts, see `prepared_dataset.find`.
    driven: episodes of each driver, see `who_drove.by_driver`.

  Returns:
    Frames from start to end, `SHEET_TITLES`, uint8 [10, 64, 64, 3] each, by
    title of the episode.

  Raises:
    errors.DatasetError: an episode is damaged.
  """
  count = max(1, _SHEET_ROWS // len(driven))
  chosen = [(x, title) for title, ids in driven.items() for x in ids[:count]]
  shown = {}
  for (split, index), title in sorted(chosen[:_SHEET_ROWS]):
    episode = loader.episodes(str(prepared.folder), split=split)[index]
    columns = np.linspace(0, len(episode) - 1, _SHEET_COLUMNS).astype(int)
    shown[f'{title} {split} {index}'] = episode.observation[columns]
  return shown


def split_row(prepared: prepared_dataset.Dataset, split: str) -> list[str]:
  """Returns what the metadata say of a split: a row below `SPLIT_HEAD`."""
  recorded = prepared.splits[split]
  known = recorded.num_terminated is not None
  return [
    split,
    f'{recorded.num_episodes:,}',
    f'{recorded.num_terminated:,}' if known else 'unknown',
    f'{recorded.num_steps:,}',
    _mean_and_std(
      recorded.return_mean, recorded.return_std, recorded.num_episodes
    ),
    f'{recorded.return_min:.1f}',
    f'{recorded.return_max:.1f}',
  ]


def _driver_row(title: str, returns: np.ndarray) -> list[str]:
  return [
    title,
    f'{len(returns):,}',
    _mean_and_std(returns.mean(), returns.std(), len(returns)),
    f'{returns.min():.1f}',
    f'{returns.max():.1f}',
  ]


def _mean_and_std(mean: float, std: float, count: int) -> str:
  """Returns the mean ± the sample standard deviation (divisor n − 1).

  Args:
    mean: mean of the values.
    std: standard deviation with divisor n, as metadata have it.
    count: number of values, n.
  """
  if count == 1:
    return f'{mean:.1f}'
  return f'{mean:.1f} ± {std * np.sqrt(count / (count - 1)):.1f}'


def _action_row(title: str, values: np.ndarray) -> list[str]:
  quantiles = np.quantile(values, (0.05, 0.5, 0.95))
  numbers = (values.mean(), values.std(), *quantiles)
  return [title, *(f'{x:.2f}' for x in numbers)]


def histograms(found: Statistics, heading: str) -> figure.Figure:
  """Returns histograms and the mean frame, side by side."""
  picture = figure.Figure(figsize=(12, 6), layout='constrained')
  axes = picture.subplots(2, 3).ravel()
  for axis, (title, value) in zip(axes, found.values.items()):
    draw_histogram(axis, title, value)
    axis.set_xlabel(title)
  axes[-1].imshow(found.mean_frame / 255)
  axes[-1].set(title='mean frame', xticks=[], yticks=[])
  picture.suptitle(heading)
  return picture


def draw_histogram(axes: axes_lib.Axes, title: str, value: np.ndarray) -> None:
  """Draws one of `Statistics.values`, of that title."""
  lowest = 0 if title.startswith('steps') else value.min()
  bins = _BINS if len(value) > _BINS else _FEW_BINS
  axes.hist(value, bins=bins, range=(lowest, value.max()))
  axes.yaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  axes.set_ylabel('episodes' if 'episode' in title else 'steps')
