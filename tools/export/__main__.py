"""Exports a dataset or an agent to the formats of other ecosystems.

  python -m tools.export --format=croissant --dataset=carracing_rollouts
  python -m tools.export --format=rlds --dataset=carracing_rollouts
  python -m tools.export --format=minari --dataset=carracing_rollouts
  python -m tools.export --format=parquet --dataset=carracing_rollouts
  python -m tools.export --format=model --evaluation=evaluation/evaluation.json

`croissant` writes `croissant.json`, a JSON-LD description of the dataset.
Croissant loaders can read its splits and features, but not the records. `rlds`
writes a copy of the rollouts as nested episodes; load it with
`tfds.load('carracing_rlds/CONFIG', data_dir=OUTPUT_DIR)`. `minari` writes one
Minari dataset for each split; load it with `minari.load_dataset(ID)` and
`MINARI_DATASETS_PATH=OUTPUT_DIR/minari`.

`parquet` and `model` write folders for the Hugging Face Hub, with their cards:
rollouts as Parquet files, one row for each step, which
`datasets.load_dataset(FOLDER)` reads; and an agent with its score, which
`agent.load(FOLDER)` reads. They print the command that uploads the folder.
"""

from collections.abc import Sequence
from pathlib import Path
import shlex

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import errors
from carracing_data import files
from etils import epy

with epy.lazy_imports():
  from carracing_data import json_documents
  from carracing_data import prepared_dataset
  from carracing_latents import schema as latents_schema
  from carracing_rollouts import schema as rollouts_schema
  from models import agent
  from tools.export import croissant
  from tools.export import hub_datasets
  from tools.export import hub_models
  from tools.export import minari_datasets
  from tools.export import rlds_datasets

# Packages of the extra `export` that a format needs.
_PACKAGES = {
  'croissant': (),
  'rlds': (),
  'minari': ('minari', 'pyarrow'),
  'parquet': ('datasets', 'huggingface_hub', 'pyarrow'),
  'model': ('huggingface_hub',),
}
_FORMAT = flags.DEFINE_enum(
  'format', None, list(_PACKAGES), 'Output format; required.', required=True
)
_DATASET = command_line.dataset_flag()
_DATA_DIR = command_line.data_dir_flag()
_AGENT = command_line.agent_flag()
_EVALUATION = flags.DEFINE_string(
  'evaluation',
  None,
  'Score of the agent for its card: evaluation.json over test tracks, as'
  ' tools.evaluate writes it; defaults to the one in the folder of the agent,'
  ' if there is one.',
)
_OUTPUT_DIR = command_line.output_dir_flag('export')


def main(argv: Sequence[str]) -> None:
  del argv
  _check_flags()
  of_agent = _FORMAT.value == 'model'
  logging.info(
    'Exporting %s as %s to %s.',
    command_line.agent_name(_AGENT.value) if of_agent else _DATASET.value,
    _FORMAT.value,
    _OUTPUT_DIR.value,
  )
  output_dir = files.expand(_OUTPUT_DIR.value).absolute()
  source = _DATASET.value, output_dir, _DATA_DIR.value
  match _FORMAT.value:
    case 'croissant':
      prepared = prepared_dataset.find(
        _DATASET.value,
        _DATA_DIR.value,
        latents_schema.KIND,
        rollouts_schema.KIND,
      )
      path = files.claim_file(output_dir / 'croissant.json')
      json_documents.write(path, croissant.describe(prepared))
      logging.info('Saved %s', path)
    case 'rlds':
      logging.info('Saved %s', rlds_datasets.export(*source).data_dir)
    case 'minari':
      # A folder of its own: Minari takes all that is beside it for datasets.
      folder = output_dir / 'minari'
      ids = minari_datasets.export(_DATASET.value, folder, _DATA_DIR.value)
      logging.info(
        'Saved %s; load them with MINARI_DATASETS_PATH=%s',
        ' and '.join(ids),
        folder,
      )
    case 'parquet':
      folder = hub_datasets.export(*source)
      _print_upload(folder, '--repo-type=dataset')
    case 'model':
      score = None
      if _EVALUATION.value:
        score = files.expand(_EVALUATION.value)
      folder = agent.folder_of(_AGENT.value)
      folder = hub_models.export(folder, output_dir, score)
      _print_upload(folder)
    case other:
      raise NotImplementedError(other)


def _print_upload(folder: Path, *options: str) -> None:
  command = ['hf', 'upload', folder.name, str(folder), *options]
  print(f'Upload it with: {shlex.join(command)}')


def _check_flags() -> None:
  """Raises UserError if a package is missing, or a flag would do nothing."""
  is_model = _FORMAT.value == 'model'
  for flag in (_DATASET, _DATA_DIR) if is_model else (_AGENT, _EVALUATION):
    if flag.present:
      raise errors.UserError(
        f'--{flag.name} does nothing with --format={_FORMAT.value}; leave it'
        ' out'
      )
  for package in _PACKAGES[_FORMAT.value]:
    command_line.check_package(package, 'export', f'--format={_FORMAT.value}')


if __name__ == '__main__':
  command_line.run(main)
