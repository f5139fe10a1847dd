"""Writes HTML pages of all episodes of a rollouts dataset, and its statistics.

  python -m tools.browse_rollouts --dataset=carracing_rollouts

Shows frames, return, length, ending, driver, track, actions over time and a
video of each episode. `index.html` in the output directory sums up the dataset
and shows the first 50 episodes, `page_2.html` the next ones, and so on. Beside
it lie what a dataset card shows: `statistics.md`, `statistics.png` (histograms
and the mean frame) and `contact_sheet.png` (episodes of every driver). The
pages need no script, no server and no network. The command can be stopped at
any moment: the same command continues it. It makes a video that was deleted
anew.

`tools.view_rollouts` shows one episode larger, beside the simulator's frames.
"""

from collections.abc import Sequence

from absl import logging
from carracing_data import command_line
from carracing_data import files
from etils import epy

with epy.lazy_imports():
  from tools.browse_rollouts import pages

_DATASET = command_line.dataset_flag()
_DATA_DIR = command_line.data_dir_flag()
_OUTPUT_DIR = command_line.output_dir_flag('browser')


def main(argv: Sequence[str]) -> None:
  del argv
  logging.info('Writing pages of %s to %s.', _DATASET.value, _OUTPUT_DIR.value)
  index = pages.make(
    _DATASET.value, _DATA_DIR.value, files.expand(_OUTPUT_DIR.value)
  )
  print(f'Open {index} in a browser.')


if __name__ == '__main__':
  command_line.run(main)
