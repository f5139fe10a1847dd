"""Saves an episode of a prepared rollouts dataset as a PNG and an MP4.

  python -m tools.view_rollouts --dataset=carracing_rollouts --episode=0

The dataset holds only the 64×64 observations. The simulator's 96×96 frames next
to them come from a replay of the recorded actions, which also proves that the
episode is reproducible.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import errors
from carracing_data import files
from carracing_data import rlds_steps
from carracing_rollouts import schema
from etils import epy
import numpy as np

with epy.lazy_imports():
  from carracing_data import prepared_dataset
  from carracing_rollouts import loader
  from carracing_rollouts import who_drove
  from tools.showing import films
  from tools.showing import pictures
  from tools.view_rollouts import replay

_DATASET = command_line.dataset_flag()
_SPLIT = flags.DEFINE_enum(
  'split', 'train', schema.SPLITS, 'Split of the dataset.'
)
_EPISODE = flags.DEFINE_integer(
  'episode',
  0,
  'Index of the episode in the split, starting at 0.',
  lower_bound=0,
)
_DATA_DIR = command_line.data_dir_flag()
_OUTPUT_DIR = command_line.output_dir_flag('view')
_COLUMNS = 12


def view(
  dataset: str,
  split: str,
  episode_id: int,
  data_dir: str | None,
  output_dir: Path,
) -> list[Path]:
  """Saves a contact sheet and a video of an episode; returns the files.

  `prepared_dataset.find` finds the dataset; `episode_id` is an index in the
  split.

  Raises:
    errors.DatasetError: there is no such dataset or episode.
    errors.UserError: the output cannot be written.
  """
  prepared = prepared_dataset.find(dataset, data_dir, schema.KIND)
  name = prepared.full_name
  episodes = loader.episodes(str(prepared.folder), split=split)
  if not 0 <= episode_id < len(episodes):
    raise errors.DatasetError(
      f'{name} has {len(episodes)} {split} episodes, numbered from 0; there'
      f' is no episode {episode_id}'
    )
  files.claim_folder(output_dir)
  episode = episodes[episode_id]
  panels = {'observation 64x64': episode.observation}
  track_seed, driver = who_drove.of_split(prepared, split)[episode_id]
  originals = replay.replay(prepared, track_seed, episode)
  if originals is not None:
    panels = {'simulator 96x96': originals, **panels}

  # Before each step.
  returns = np.cumsum(episode.reward) - episode.reward
  columns = np.linspace(0, len(episode) - 1, _COLUMNS).round().astype(int)
  stem = f'{split}-{episode_id}'
  sheet, video = output_dir / f'{stem}.png', output_dir / f'{stem}.mp4'
  pictures.save_strip(
    sheet,
    {title: frames[columns] for title, frames in panels.items()},
    [f'step {i}\nreturn {returns[i]:.1f}' for i in columns],
    f'{name}, {split} episode {episode_id}, driven by {driver.title}',
  )
  films.save_panels(
    video,
    panels,
    [
      f'step {i:4d}  '
      + '  '.join(map('{} {:5.2f}'.format, rlds_steps.ACTION_NAMES, action))
      + f'  return {returns[i]:.1f}'
      + ('  imposed' if episode.is_intervention[i] else '')
      for i, action in enumerate(episode.action)
    ],
  )
  return [sheet, video]


def main(argv: Sequence[str]) -> None:
  del argv
  logging.info(
    'Showing %s episode %d of %s.',
    _SPLIT.value,
    _EPISODE.value,
    _DATASET.value,
  )
  saved = view(
    _DATASET.value,
    _SPLIT.value,
    _EPISODE.value,
    _DATA_DIR.value,
    files.expand(_OUTPUT_DIR.value),
  )
  logging.info('Saved %s', ' and '.join(map(str, saved)))


if __name__ == '__main__':
  command_line.run(main)
