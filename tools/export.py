"""Exports a prepared dataset to Croissant or RLDS.

  python -m tools.export --format=croissant --dataset=carracing_rollouts
  python -m tools.export --format=rlds --dataset=carracing_rollouts

`croissant` writes `croissant.json`, a JSON-LD description of the dataset.
Croissant loaders can read its splits and features, but not the records. `rlds`
writes a copy of the rollouts as nested episodes; load it with
`tfds.load('carracing_rlds/CONFIG', data_dir=OUTPUT_DIR)`.
"""

from collections.abc import Sequence

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import places
from etils import epy

with epy.lazy_imports():
  from carracing_data import croissant
  from carracing_data import documents
  from carracing_data import prepared
  from carracing_latents import schema as latents_schema
  from carracing_rollouts import rlds
  from carracing_rollouts import schema as rollouts_schema

_FORMAT = flags.DEFINE_enum(
  'format',
  None,
  ['croissant', 'rlds'],
  'Output format; required.',
  required=True,
)
_DATASET = command_line.dataset_flag()
_DATA_DIR = command_line.data_dir_flag()
_OUTPUT_DIR = command_line.output_dir_flag('export')


def main(argv: Sequence[str]) -> None:
  del argv
  if _FORMAT.value == 'rlds':
    builder = rlds.export(
      _DATASET.value, places.expand(_OUTPUT_DIR.value), _DATA_DIR.value
    )
    logging.info('Saved %s', builder.data_dir)
    return
  builder = prepared.find(
    _DATASET.value, _DATA_DIR.value, latents_schema.KIND, rollouts_schema.KIND
  )
  path = places.claim_file(places.expand(_OUTPUT_DIR.value) / 'croissant.json')
  documents.write(path, croissant.describe(builder))
  logging.info('Saved %s', path)


if __name__ == '__main__':
  command_line.run(main)
