"""Exports a dataset or an agent to the formats of other ecosystems.

  python -m tools.export --format=croissant --dataset=carracing_rollouts
  python -m tools.export --format=rlds --dataset=carracing_rollouts
  python -m tools.export --format=minari --dataset=carracing_rollouts
  python -m tools.export --format=parquet --dataset=carracing_rollouts
  python -m tools.export --format=model --evaluation=evaluation/evaluation.json
  python -m tools.export --format=model --float16 --agent=runs/controller/agent

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
from typing import Any, NamedTuple

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import errors
from carracing_data import files
from etils import epy

with epy.lazy_imports():
  from models import agent
  from tools.export import croissant
  from tools.export import hub_datasets
  from tools.export import hub_models
  from tools.export import minari_datasets
  from tools.export import rlds_datasets


class _Exporter(NamedTuple):
  """How a format is written.

  Attributes:
    module: its function `export` writes and reports: of a dataset it takes the
      name or folder, the output directory and the data directory, see
      `prepared_dataset.find`; of an agent the folder, the output directory, the
      file of the score, whether to round, and the film.
    of_agent: whether it exports an agent; if not, it exports a dataset.
  """

  module: Any
  of_agent: bool = False


_EXPORTERS = {
  'croissant': _Exporter(croissant),
  'rlds': _Exporter(rlds_datasets),
  'minari': _Exporter(minari_datasets),
  'parquet': _Exporter(hub_datasets),
  'model': _Exporter(hub_models, of_agent=True),
}
_FORMAT = flags.DEFINE_enum(
  'format', None, list(_EXPORTERS), 'Output format; required.', required=True
)
_DATASET = command_line.dataset_flag()
_DATA_DIR = command_line.data_dir_flag()
_AGENT = command_line.agent_flag()
_EVALUATION = flags.DEFINE_string(
  'evaluation',
  None,
  'Score of the exported agent for its card: evaluation.json over final or'
  ' development tracks, as tools.evaluate writes it; defaults to the one in the'
  ' folder of the agent, if there is one and the agent is not rounded.',
)
_FLOAT16 = flags.DEFINE_boolean(
  'float16',
  False,
  'Round V and M of the agent to float16 and keep 512 start states, so that it'
  ' is half the size.',
)
_FILM = flags.DEFINE_string(
  'film',
  None,
  'Film of the agent for its card: the drive.mp4 of tools.drive; by default'
  ' none.',
)
_OUTPUT_DIR = command_line.output_dir_flag('export')


def main(argv: Sequence[str]) -> None:
  del argv
  exporter = _EXPORTERS[_FORMAT.value]
  _check_flags(exporter)
  logging.info(
    'Exporting %s as %s to %s.',
    command_line.agent_name(_AGENT.value)
    if exporter.of_agent
    else _DATASET.value,
    _FORMAT.value,
    _OUTPUT_DIR.value,
  )
  output_dir = files.expand(_OUTPUT_DIR.value).absolute()
  if exporter.of_agent:
    score = files.expand(_EVALUATION.value) if _EVALUATION.value else None
    folder = agent.folder_of(_AGENT.value)
    film = files.expand(_FILM.value) if _FILM.value else None
    exporter.module.export(folder, output_dir, score, _FLOAT16.value, film)
  else:
    exporter.module.export(_DATASET.value, output_dir, _DATA_DIR.value)


def _check_flags(exporter: _Exporter) -> None:
  """Raises UserError if a flag would do nothing."""
  of_dataset = _DATASET, _DATA_DIR
  of_agent = _AGENT, _EVALUATION, _FLOAT16, _FILM
  for flag in of_dataset if exporter.of_agent else of_agent:
    if flag.present:
      raise errors.UserError(
        f'--{flag.name} does nothing with --format={_FORMAT.value}; leave it'
        ' out'
      )


if __name__ == '__main__':
  command_line.run(main)
