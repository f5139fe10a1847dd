"""TFDS's features and information of the datasets of this project."""

from collections.abc import Sequence
from pathlib import Path
import shlex
from typing import Any

from carracing_data import digests
from carracing_data import errors
from carracing_data import metadata as metadata_lib
from etils import epath
import numpy as np
import tensorflow_datasets as tfds


def features_of(
  kind: metadata_lib.Kind, **sizes: int
) -> tfds.features.FeaturesDict:
  """Returns the features of a kind of dataset, stored as bytes.

  Args:
    kind: kind of the dataset.
    **sizes: sizes of the named dimensions of the kind.
  """

  def feature(dtype: str, shape: Sequence[int | str | None]) -> Any:
    numpy_dtype = np.dtype(dtype).type
    if not shape:
      return numpy_dtype
    return tfds.features.Tensor(
      shape=[sizes[n] if isinstance(n, str) else n for n in shape],
      dtype=numpy_dtype,
      encoding='bytes',
    )

  return tfds.features.FeaturesDict(
    {name: feature(*spec) for name, spec in kind.features.items()}
  )


class Info(tfds.core.DatasetInfo):
  """Dataset info that reads only complete datasets and has a short `repr`.

  `tfds build` prints it at the end.
  """

  def read_from_directory(self, dataset_info_dir: epath.PathLike) -> None:
    if problem(Path(dataset_info_dir)) is None:
      super().read_from_directory(dataset_info_dir)

  def __repr__(self) -> str:
    config, _, version = self.full_name.rpartition('/')
    splits = (self.metadata or {}).get('splits')
    if splits is None:
      return f'{self.full_name} is not built.'
    digest = digests.of_dataset(
      {split: x['content_sha256'] for split, x in splits.items()}
    )[: digests.SHORT]
    name = f'{config}:{version}@{digest}'
    folder = f'{self.data_dir}@{digest}'
    return '\n'.join(
      [
        f'{self.full_name} is in {self.data_dir} ({self.dataset_size}).',
        *(
          f'{split}: {recorded["num_episodes"]:,} episodes,'
          f' {recorded["num_steps"]:,} steps'
          for split, recorded in splits.items()
        ),
        f'Cite it as: {name}',
        'Check it, or a copy, with: python -m tools.verify'
        f' --dataset={shlex.quote(str(self.data_dir))} --expect={digest}',
        f'Read it with: {self.name}.loader.episodes({folder!r})',
      ]
    )


def problem(folder: epath.PathLike) -> str | None:
  """Returns why a folder is not a complete dataset, or None if it is one."""
  try:
    metadata_lib.check_folder(Path(folder))
  except errors.DatasetError as error:
    return str(error)
  return None
