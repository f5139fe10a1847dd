"""A prepared `carracing_rollouts` dataset in the RLDS format.

RLDS (Ramos et al., 2021) stores an episode as a nested sequence of steps. That
is convenient for whole episodes and slow for single frames, so here it is only
a view, and an export for code that reads no other format.
"""

from collections.abc import Iterator, Mapping
import contextlib
import functools
import io
import itertools
from pathlib import Path
import shutil
from typing import Any

from absl import logging
from carracing_data import errors
from carracing_data import files
from carracing_data import metadata
from carracing_data import prepared_dataset
from carracing_data import progress
from carracing_rollouts import loader
from carracing_rollouts import schema
from etils import epath
import numpy as np
import tensorflow_datasets as tfds
from tools.export import descriptions


def episodes(
  name: str = 'carracing_rollouts',
  *,
  split: str = 'train',
  data_dir: epath.PathLike | None = None,
) -> Iterator[Mapping[str, Any]]:
  """Yields the episodes of a split, in order, in the RLDS format.

  Args:
    name: `dataset/config:version`, see `prepared_dataset.find`.
    split: `train` or `validation`.
    data_dir: data directory, see `prepared_dataset.find`.

  Yields:
    Dictionaries with `episode_id` and `steps`, a list of dictionaries with
    `observation`, `action`, `is_intervention` (not of version 1), `reward`,
    `discount`, `is_first`, `is_last` and `is_terminal`.

  Raises:
    errors.DatasetError: the dataset or the split is missing.
  """
  source = prepared_dataset.find(name, data_dir, schema.KIND)
  found = loader.episodes(str(source.folder), split=split)
  yield from map(functools.partial(_nested, source), itertools.count(), found)


def _nested(
  source: prepared_dataset.Dataset, episode_id: int, episode: schema.Episode
) -> dict[str, Any]:
  fields = descriptions.step_values(source, episode)
  return {
    'episode_id': np.int64(episode_id),
    'steps': [
      {key: value[index] for key, value in fields.items()}
      for index in range(len(episode))
    ],
  }


def export(
  name: str,
  output_dir: epath.PathLike,
  data_dir: epath.PathLike | None = None,
) -> None:
  """Writes an RLDS dataset that `tfds.load('carracing_rlds/...')` reads.

  Raises:
    errors.DatasetError: the dataset is missing or of another kind.
    errors.UserError: the export already exists or cannot be written.
  """
  source = prepared_dataset.find(name, data_dir, schema.KIND)
  root = Path(output_dir)
  version, texts = str(source.version), descriptions.texts(source)
  folder = root / 'carracing_rlds' / source.config_name / version
  with (
    files.new_folder(folder) as unfinished,
    _name_unwritable(root),
    _silent_tfds(),
  ):
    exported = tfds.dataset_builders.store_as_tfds_dataset(
      name='carracing_rlds',
      config=source.config_name,
      version=version,
      release_notes=texts.releaseNotes,
      features=_features(source),
      split_datasets={  # pyright: ignore[reportArgumentType]
        split: _shown(source, split) for split in schema.SPLITS
      },
      data_dir=unfinished,
      description=f'{source.full_name} in the RLDS format.',
      homepage=texts.homepage,
      citation=texts.citation,
      disable_shuffling=True,
    )
    for file in Path(exported.data_dir).iterdir():
      file.rename(unfinished / file.name)
    shutil.rmtree(unfinished / 'carracing_rlds')
    # Provenance: digests, config, packages and statistics of the source.
    shutil.copyfile(source.folder / metadata.FILE, unfinished / metadata.FILE)
  logging.info('Saved %s', folder)


def _shown(
  source: prepared_dataset.Dataset, split: str
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields the nested episodes with their keys, and shows the progress."""
  found = loader.episodes(str(source.folder), split=split)
  for i, episode in enumerate(progress.each(found, split, 'episodes')):
    yield i, _nested(source, i, episode)


@contextlib.contextmanager
def _silent_tfds() -> Iterator[None]:
  """Hides bars that would fill log files, and names of temporary folders."""
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    tfds.enable_progress_bar()


@contextlib.contextmanager
def _name_unwritable(folder: Path) -> Iterator[None]:
  """Names the folder if TensorFlow cannot write to it, e.g. on a full disk."""
  try:
    yield
  except Exception as error:
    # TFDS tells some of TensorFlow's errors as another one.
    cause: Any = error.__cause__ if isinstance(error, RuntimeError) else error
    if not type(cause).__module__.startswith('tensorflow.'):
      raise
    raise errors.UserError(
      f'cannot write to {folder}: {str(cause).splitlines()[0]}'
    ) from error


def _features(source: prepared_dataset.Dataset) -> tfds.features.FeaturesDict:
  """Returns the features of an episode."""
  step = {
    name: tfds.features.Tensor(
      shape=feature.shape, dtype=np.dtype(feature.dtype), encoding='bytes'
    )
    if feature.shape
    else np.dtype(feature.dtype)
    for name, feature in descriptions.step_features(source).items()
  }
  return tfds.features.FeaturesDict(
    {'episode_id': np.int64, 'steps': tfds.features.Dataset(step)}
  )
