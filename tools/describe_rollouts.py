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
from carracing_data import files
from etils import epy
from tools.showing import markdown

with epy.lazy_imports():
  from carracing_data import prepared_dataset
  from carracing_rollouts import schema
  from tools.measuring import rollout_statistics
  from tools.showing import pictures

_DATASET = command_line.dataset_flag()
_DATA_DIR = command_line.data_dir_flag()
_OUTPUT_DIR = command_line.output_dir_flag('description')


def describe(dataset: str, data_dir: str | None, output_dir: Path) -> None:
  """Reads a dataset once and writes its statistics.

  Args:
    dataset: name or folder of the dataset; see `prepared_dataset.find`.
    data_dir: data directory; see `prepared_dataset.find`.
    output_dir: output directory.

  Raises:
    errors.DatasetError: there is no such dataset.
    errors.UserError: the output cannot be written.
  """
  prepared = prepared_dataset.find(dataset, data_dir, schema.KIND)
  files.claim_folder(output_dir)
  found = rollout_statistics.read(prepared)
  text = '\n\n'.join(
    [
      f'Computed from `{prepared.citation}` by'
      ' `python -m tools.describe_rollouts`.',
      *(markdown.table(*table) for table in found.tables),
    ]
  )
  files.replace(
    output_dir / 'statistics.md', lambda file: file.write_text(text + '\n')
  )
  picture = rollout_statistics.histograms(found)
  files.replace(
    output_dir / 'statistics.png',
    lambda file: picture.savefig(file, dpi=100, format='png'),
  )
  pictures.save_strip(
    output_dir / 'contact_sheet.png',
    found.sheet,
    found.sheet_titles,
    f'{found.name}: episodes from start to end',
  )


def main(argv: Sequence[str]) -> None:
  del argv
  logging.info('Describing %s in %s.', _DATASET.value, _OUTPUT_DIR.value)
  output_dir = files.expand(_OUTPUT_DIR.value)
  describe(_DATASET.value, _DATA_DIR.value, output_dir)
  logging.info('Saved %s', output_dir)


if __name__ == '__main__':
  command_line.run(main)
