"""Statistics of a rollouts dataset, which is read once → tables and frames."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from carracing_data import prepared_dataset
from carracing_data import progress
from carracing_data import rlds_steps
from carracing_rollouts import loader
from carracing_rollouts import schema
from matplotlib import axes as axes_lib
from matplotlib import figure
import numpy as np
from tools.showing import origins

_SHEET_ROWS = 6
_SHEET_COLUMNS = 10
SHEET_TITLES = [
  f'{100 * i // (_SHEET_COLUMNS - 1)} %' for i in range(_SHEET_COLUMNS)
]
_BINS = 40
SPLIT_HEAD = (
  'split',
  'episodes',
  'terminated',
  'steps',
  'return, mean ± std',
  'lowest',
  'highest',
)
_DRIVER_HEAD = (
  'driven by',
  'episodes',
  'return, mean ± std',
  'lowest',
  'highest',
)
_ACTION_HEAD = ('action', 'mean', 'std', '5%', 'median', '95%')
Table = tuple[Sequence[str], list[list[str]]]  # Head and rows.


class Statistics(NamedTuple):
  """Statistics of a rollouts dataset.

  Attributes:
    name: full name of the dataset.
    tables: of its splits, its drivers and its actions.
    values: what histograms show, float [N] each, by name.
    mean_frame: float64 [64, 64, 3], 0..255.
    sheet: frames of a few episodes of every driver, from start to end, uint8
      [10, 64, 64, 3] each, by title.
    sheet_titles: titles of the columns of `sheet`.
  """

  name: str
  tables: list[Table]
  values: dict[str, np.ndarray]
  mean_frame: np.ndarray
  sheet: dict[str, np.ndarray]
  sheet_titles: list[str]


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
  driven = {
    title: read
    for title, ids in origins.by_driver(prepared, *schema.SPLITS).items()
    if (read := [x for x in ids if most is None or x[1] < most])
  }
  lengths, actions, rows = [], [], []
  returns: dict[tuple[str, int], float] = {}
  frame_sum = np.zeros((64, 64, 3))
  for split in schema.SPLITS:
    episodes = loader.episodes(str(prepared.folder), split=split)
    read = progress.each(episodes[:most], split, 'episodes')
    for index, episode in enumerate(read):
      lengths.append(len(episode))
      returns[split, index] = float(episode.reward.sum(dtype=np.float64))
      actions.append(episode.action[:-1])
      frame_sum += episode.observation.sum(axis=0, dtype=np.float64)
    rows.append(split_row(prepared, split))

  all_actions = np.concatenate(actions)
  quantiles = np.quantile(all_actions, (0.05, 0.5, 0.95), axis=0).T
  of_drivers = [
    [title, f'{len(ids):,}', f'{x.mean():.1f} ± {x.std():.1f}']
    + [f'{x.min():.1f}', f'{x.max():.1f}']
    for title, ids in driven.items()
    for x in [np.array([returns[key] for key in ids])]
  ]
  of_actions = [
    [title, *(f'{x:.2f}' for x in (v.mean(), v.std(), *of_action))]
    for title, v, of_action in zip(
      rlds_steps.ACTION_NAMES, all_actions.T, quantiles
    )
  ]
  return Statistics(
    name=prepared.full_name,
    tables=[
      (SPLIT_HEAD, rows),
      (_DRIVER_HEAD, of_drivers),
      (_ACTION_HEAD, of_actions),
    ],
    values={
      'steps of an episode': np.array(lengths),
      'return of an episode': np.array([*returns.values()]),
      **dict(zip(rlds_steps.ACTION_NAMES, all_actions.T)),
    },
    mean_frame=frame_sum / sum(lengths),
    sheet=sheet(prepared, driven),
    sheet_titles=SHEET_TITLES,
  )


def sheet(
  prepared: prepared_dataset.Dataset,
  driven: Mapping[str, Sequence[tuple[str, int]]],
) -> dict[str, np.ndarray]:
  """Returns frames of a few episodes, as many of each driver.

  Args:
    prepared: a dataset of rollouts, see `prepared_dataset.find`.
    driven: episodes of each driver, see `origins.by_driver`.

  Returns:
    Frames from start to end, uint8 [10, 64, 64, 3] each, by title.

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
  return [
    split,
    f'{recorded.num_episodes:,}',
    'unknown'
    if recorded.num_terminated is None
    else f'{recorded.num_terminated:,}',
    f'{recorded.num_steps:,}',
    f'{recorded.return_mean:.1f} ± {recorded.return_std:.1f}',
    f'{recorded.return_min:.1f}',
    f'{recorded.return_max:.1f}',
  ]


def histograms(found: Statistics) -> figure.Figure:
  """Returns histograms and the mean frame, side by side."""
  picture = figure.Figure(figsize=(12, 6), layout='constrained')
  axes = picture.subplots(2, 3).ravel()
  for axis, (title, value) in zip(axes, found.values.items()):
    draw_histogram(axis, title, value)
    axis.set_xlabel(title)
  axes[-1].imshow(found.mean_frame / 255)
  axes[-1].set(title='mean frame', xticks=[], yticks=[])
  picture.suptitle(found.name)
  return picture


def draw_histogram(axes: axes_lib.Axes, title: str, value: np.ndarray) -> None:
  """Draws one of `Statistics.values`, of that title."""
  lowest = 0 if title.startswith('steps') else value.min()
  axes.hist(value, bins=_BINS, range=(lowest, value.max()))
  axes.set_ylabel('episodes' if 'episode' in title else 'steps')
