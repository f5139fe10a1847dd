"""A prepared `carracing_rollouts` dataset → a dataset folder for the Hub.

A row is a step, with its frame as a PNG, in Parquet files that the Hub's viewer
shows and that `datasets.load_dataset(FOLDER)` reads. `README.md` is the card.
"""

from collections.abc import Mapping, Sequence
import json
from pathlib import Path
import shlex
import shutil
from typing import Any

from carracing_data import files
from carracing_data import metadata
from carracing_data import prepared_dataset
from carracing_data import progress
from carracing_rollouts import loader
from carracing_rollouts import schema
from carracing_rollouts import who_drove
import datasets
from datasets import info as datasets_info
import huggingface_hub
import numpy as np
import pyarrow as pa
from pyarrow import parquet
from tools.export import descriptions
from tools.showing import markdown
from tools.showing import pictures
from tools.showing import rollout_statistics

_STEPS_PER_FILE = 250_000  # 500 MB.
_PREVIEW = 'preview.png'
_SIZES = '1K', '10K', '100K', '1M', '10M', '100M', '1B', '10B', '100B', '1T'
# Episodes (split, index) of each driver.
_Driven = Mapping[str, Sequence[tuple[str, int]]]
_TEMPLATE = Path(__file__).with_name('dataset_card.md.jinja')


def export(
  name: str,
  output_dir: Path,
  data_dir: str | None = None,
  steps_per_file: int = _STEPS_PER_FILE,
) -> Path:
  """Writes a folder that can be uploaded as it is; returns it.

  A file has about `steps_per_file` steps; episodes stay whole.

  Raises:
    errors.DatasetError: the dataset is missing, of another kind or damaged.
    errors.UserError: the new folder exists already, or cannot be written.
  """
  prepared = prepared_dataset.find(name, data_dir, schema.KIND)
  drives = who_drove.of_dataset(prepared)
  driven = who_drove.by_driver(drives)
  title = f'{prepared.name}-{prepared.config_name}'
  with files.new_folder(output_dir / title) as folder:
    (folder / 'data').mkdir()
    splits = [
      _write(
        prepared, split, drives[split], driven, folder / 'data', steps_per_file
      )
      for split in schema.SPLITS
    ]
    pictures.save_strip(
      folder / _PREVIEW,
      rollout_statistics.sheet(prepared, driven),
      rollout_statistics.SHEET_TITLES,
      f'{prepared.full_name}: episodes from start to end',
    )
    shutil.copyfile(prepared.folder / metadata.FILE, folder / metadata.FILE)
    info = datasets.DatasetInfo(
      features=_features(prepared),
      splits=datasets.SplitDict({split.name: split for split in splits}),
      download_size=sum(x.stat().st_size for x in folder.glob('data/*')),
      dataset_size=sum(split.num_bytes for split in splits),
    )
    _card(prepared, driven, title, info).save(folder / 'README.md')
  path = output_dir / title
  upload = ['hf', 'upload', title, str(path), '--repo-type=dataset']
  print(f'Upload it with: {shlex.join(upload)}')
  return path


def _features(prepared: prepared_dataset.Dataset) -> datasets.Features:
  """Returns the columns: the features of a step, and what it belongs to."""
  return datasets.Features(
    {
      'episode_id': datasets.Value('int64'),
      'step': datasets.Value('int32'),
      **{
        name: _column(feature)
        for name, feature in descriptions.step_features(prepared).items()
      },
      'track_seed': datasets.Value('int64'),
      'driver': datasets.Value('string'),
    }
  )


def _column(feature: descriptions.StepFeature) -> Any:
  if (feature.dtype, len(feature.shape)) == ('uint8', 3):
    return datasets.Image()
  column = datasets.Value(feature.dtype)
  for size in reversed(feature.shape):
    column = datasets.List(column, length=size)
  return column


def _write(
  prepared: prepared_dataset.Dataset,
  split: str,
  drives: Sequence[who_drove.Origin],
  driven: _Driven,
  folder: Path,
  steps_per_file: int,
) -> datasets.SplitInfo:
  """Writes the files of a split, one episode after another."""
  episodes = loader.episodes(str(prepared.folder), split=split)
  drivers = {key: title for title, keys in driven.items() for key in keys}
  num_steps = prepared.splits[split].num_steps
  num_files = min(len(episodes), -(-num_steps // steps_per_file))
  features = _features(prepared)
  num_bytes = 0
  with progress.Progress(split, 'episodes', len(episodes)) as shown:
    shown.start()
    for i, ids in enumerate(np.array_split(range(len(episodes)), num_files)):
      path = folder / f'{split}-{i:05d}-of-{num_files:05d}.parquet'
      with parquet.ParquetWriter(path, features.arrow_schema) as writer:
        for episode_id in ids.tolist():
          episode = episodes[episode_id]
          values = descriptions.step_values(prepared, episode)
          columns = {name: [*x] for name, x in values.items()}
          count = len(episode)
          columns |= {
            'episode_id': [episode_id] * count,
            'step': [*range(count)],
            'track_seed': [drives[episode_id].track_seed] * count,
            'driver': [drivers[split, episode_id]] * count,
          }
          table = pa.Table.from_pydict(
            features.encode_batch(columns), features.arrow_schema
          )
          writer.write_table(table, row_group_size=count)
          num_bytes += table.nbytes
          shown.count_one()
  return datasets.SplitInfo(split, num_bytes, num_steps)


def _card(
  prepared: prepared_dataset.Dataset,
  driven: _Driven,
  title: str,
  info: datasets.DatasetInfo,
) -> huggingface_hub.DatasetCard:
  of_splits = prepared.splits
  num_steps = sum(x.num_steps for x in of_splits.values())
  data = huggingface_hub.DatasetCardData(
    license='apache-2.0',
    pretty_name=f'CarRacing rollouts: {prepared.config_name}',
    task_categories=['reinforcement-learning'],
    tags=['CarRacing-v3', 'gymnasium', 'offline-rl', 'rlds', 'world-models'],
    size_categories=[size_category(num_steps)],
    configs=[
      {
        'config_name': 'default',
        'data_files': [
          {'split': split, 'path': f'data/{split}-*'} for split in of_splits
        ],
      }
    ],
  )
  datasets_info.DatasetInfosDict(default=info).to_dataset_card_data(data)
  return huggingface_hub.DatasetCard.from_template(
    data,
    str(_TEMPLATE),
    title=title,
    citation=prepared.citation,
    num_steps=num_steps,
    num_episodes=sum(x.num_episodes for x in of_splits.values()),
    preview=_PREVIEW,
    features=descriptions.step_features(prepared),
    splits=markdown.table(
      (*rollout_statistics.SPLIT_HEAD, 'SHA-256'),
      [
        [
          *rollout_statistics.split_row(prepared, split),
          f'`{x.content_sha256}`',
        ]
        for split, x in of_splits.items()
      ],
    ),
    drivers=markdown.table(
      ['driver', *(f'{split} episodes' for split in of_splits)],
      [
        [driver, *(sum(x == split for x, _ in keys) for split in of_splits)]
        for driver, keys in driven.items()
      ],
    ),
    config=json.dumps(prepared.config, indent=2),
    bibtex=descriptions.texts(prepared).citation,
  )


def size_category(num_rows: int) -> str:
  """Returns one of the Hub's names of sizes, such as `10K<n<100K`."""
  if num_rows < 1000:
    return 'n<1K'
  digits = len(str(num_rows))
  return '<n<'.join(_SIZES[digits - 4 : digits - 2])
