"""Computes the statistics of a rollouts dataset for its dataset card.

  python -m tools.describe_rollouts --dataset=carracing_rollouts

Reads the dataset once. Writes `statistics.md`, `statistics.png` (histograms and
the mean frame) and `contact_sheet.png` (frames of episodes of every driver) to
the output directory.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import logging
from carracing_data import command_line
from carracing_data import places
from carracing_data import prepared
from carracing_data import steps
from carracing_rollouts import loader
from carracing_rollouts import origins
from carracing_rollouts import schema
from matplotlib import figure
import numpy as np
from tools import markdown
from tools import pictures
import tqdm

_DATASET = command_line.dataset_flag()
_DATA_DIR = command_line.data_dir_flag()
_OUTPUT_DIR = command_line.output_dir_flag('description')
_SHEET_ROWS = 6
_SHEET_COLUMNS = 10
_BINS = 40
_SPLIT_HEAD = (
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


def describe(dataset: str, data_dir: str | None, output_dir: Path) -> None:
  """Reads a dataset once and writes its statistics.

  Args:
    dataset: name or folder of the dataset; see `prepared.find`.
    data_dir: data directory; see `prepared.find`.
    output_dir: output directory.

  Raises:
    errors.DatasetError: there is no such dataset.
    errors.PlaceError: the output cannot be written.
  """
  builder = prepared.find(dataset, data_dir, schema.KIND)
  places.claim_folder(output_dir)
  name = prepared.full_name(builder)
  driven = origins.by_driver(builder, *schema.SPLITS)
  # As many episodes of each driver.
  count = max(1, _SHEET_ROWS // len(driven))
  chosen = [(x, title) for title, ids in driven.items() for x in ids[:count]]
  shown = dict(chosen[:_SHEET_ROWS])
  lengths, actions, rows = [], [], []
  returns: dict[tuple[str, int], float] = {}
  sheet = {}
  frame_sum = np.zeros((64, 64, 3))
  for split in schema.SPLITS:
    episodes = loader.episodes(str(builder.data_dir), split=split)
    for index in tqdm.tqdm(range(len(episodes)), desc=split, unit=' episodes'):
      episode = episodes[index]
      lengths.append(len(episode))
      returns[split, index] = float(episode.reward.sum(dtype=np.float64))
      actions.append(episode.action[:-1])
      frame_sum += episode.observation.sum(axis=0, dtype=np.float64)
      if (split, index) in shown:
        columns = np.linspace(0, len(episode) - 1, _SHEET_COLUMNS).astype(int)
        title = f'{shown[split, index]} {split} {index}'
        sheet[title] = episode.observation[columns]
    recorded = builder.info.metadata['splits'][split]
    rows.append(
      [
        split,
        f'{len(episodes):,}',
        f'{recorded["num_terminated"]:,}',
        f'{recorded["num_steps"]:,}',
        f'{recorded["return_mean"]:.1f} ± {recorded["return_std"]:.1f}',
        f'{recorded["return_min"]:.1f}',
        f'{recorded["return_max"]:.1f}',
      ]
    )

  all_actions = np.concatenate(actions)
  quantiles = np.quantile(all_actions, (0.05, 0.5, 0.95), axis=0).T
  text = '\n\n'.join(
    [
      f'Computed from `{prepared.citation(builder)}` by'
      ' `python -m tools.describe_rollouts`.',
      markdown.table(_SPLIT_HEAD, rows),
      markdown.table(
        _DRIVER_HEAD,
        [
          [title, f'{len(ids):,}', f'{x.mean():.1f} ± {x.std():.1f}']
          + [f'{x.min():.1f}', f'{x.max():.1f}']
          for title, ids in driven.items()
          for x in [np.array([returns[key] for key in ids])]
        ],
      ),
      markdown.table(
        _ACTION_HEAD,
        [
          [title, *(f'{x:.2f}' for x in (v.mean(), v.std(), *of_action))]
          for title, v, of_action in zip(
            steps.ACTION_NAMES, all_actions.T, quantiles
          )
        ],
      ),
    ]
  )
  places.replace(
    output_dir / 'statistics.md', lambda file: file.write_text(text + '\n')
  )
  _save_histograms(
    output_dir / 'statistics.png',
    name,
    {
      'steps of an episode': np.array(lengths),
      'return of an episode': np.array([*returns.values()]),
      **dict(zip(steps.ACTION_NAMES, all_actions.T)),
    },
    frame_sum / sum(lengths),
  )
  pictures.save_strip(
    output_dir / 'contact_sheet.png',
    sheet,
    [f'{100 * i // (_SHEET_COLUMNS - 1)} %' for i in range(_SHEET_COLUMNS)],
    f'{name}: episodes from start to end',
  )


def _save_histograms(
  path: Path, name: str, values: dict[str, np.ndarray], mean_frame: np.ndarray
) -> None:
  picture = figure.Figure(figsize=(12, 6), layout='constrained')
  axes = picture.subplots(2, 3).ravel()
  for axis, (title, value) in zip(axes, values.items()):
    lowest = 0 if title.startswith('steps') else value.min()
    axis.hist(value, bins=_BINS, range=(lowest, value.max()))
    axis.set(xlabel=title, ylabel='episodes' if 'episode' in title else 'steps')
  axes[-1].imshow(mean_frame / 255)
  axes[-1].set(title='mean frame', xticks=[], yticks=[])
  picture.suptitle(name)
  places.replace(
    path, lambda file: picture.savefig(file, dpi=100, format='png')
  )


def main(argv: Sequence[str]) -> None:
  del argv
  output_dir = places.expand(_OUTPUT_DIR.value)
  describe(_DATASET.value, _DATA_DIR.value, output_dir)
  logging.info('Saved %s', output_dir)


if __name__ == '__main__':
  command_line.run(main)
