"""Finds prepared datasets on disk and reads them, without their builders.

Whoever has the data directory can read it: neither TensorFlow nor the code that
built the dataset is imported.
"""

from collections.abc import Sequence
import os
from typing import Any

from carracing_data import errors
from etils import epath
import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants
from tensorflow_datasets.core import read_only_builder


class Records(Sequence[Any]):
  """The records of a split; decodes only the features that are wanted."""

  def __init__(
    self,
    serialized: Sequence[bytes],
    features: tfds.features.FeaturesDict,
    folder: str,
    split: str,
  ):
    self._serialized = serialized
    self._features = features
    self._folder = folder
    self._split = split

  def __len__(self) -> int:
    return len(self._serialized)

  def __getitem__(self, index: int) -> Any:  # pyright: ignore
    if not 0 <= index < len(self):
      raise IndexError(index)
    try:
      return self._features.deserialize_example_np(self._serialized[index])
    except (RuntimeError, ValueError) as error:
      raise errors.DatasetError(
        f'{self._split} record {index} of {self._folder} is damaged'
        f' ({str(error)[:80]}); look closer with: python -m tools.verify'
        f' --dataset={self._folder}'
      ) from error


def find(
  name: str, data_dir: epath.PathLike | None = None
) -> tfds.core.DatasetBuilder:
  """Opens a prepared dataset.

  Args:
    name: `dataset`, `dataset/config` or `dataset/config:version`, the default
      config and the newest version where they are left out; or the folder of a
      prepared dataset.
    data_dir: where datasets lie; by default `$TFDS_DATA_DIR`, else
      `~/tensorflow_datasets`.

  Returns:
    A builder that can only read, through `as_data_source`.

  Raises:
    errors.DatasetError: no such dataset has been prepared there.
  """
  if (epath.Path(name) / 'dataset_info.json').exists():
    return tfds.builder_from_directory(name)
  data_dir = epath.Path(
    data_dir or constants.get_default_data_dir()
  ).expanduser()
  try:
    return read_only_builder.builder_from_files(
      name, data_dir=os.fspath(data_dir)
    )
  except tfds.core.DatasetNotFoundError:
    dataset, _, config = name.partition(':')[0].partition('/')
    folder = data_dir / dataset
    others = sorted(
      p.parent.relative_to(data_dir).as_posix()
      for p in folder.glob('*/*/dataset_info.json')
    )
    command = f'cd datasets && tfds build {dataset} --data_dir={data_dir}'
    if config not in ('', 'default'):
      command += f''' --config '{{"name": "{config}", ...}}\''''
    raise errors.DatasetError(
      f'there is no prepared dataset {name!r} in {data_dir}'
      + (f' (there are {", ".join(others)})' if others else '')
      + f'. Build it with: {command}'
    ) from None


def records(
  builder: tfds.core.DatasetBuilder,
  split: str,
  features: Sequence[str] | None = None,
) -> Records:
  """Returns the decoded records of a split, for random access.

  Args:
    builder: what `find` returned.
    split: the name of a split.
    features: which features to decode; all of them if None.

  Raises:
    errors.DatasetError: the dataset has no such split.
  """
  if split not in builder.info.splits:
    raise errors.DatasetError(
      f'{full_name(builder)} has no split {split!r}, only'
      f' {", ".join(builder.info.splits)}'
    )
  available = builder.info.features
  assert isinstance(available, tfds.features.FeaturesDict)
  return Records(
    builder.as_data_source(
      split=split,  # pyright: ignore[reportCallIssue]
      deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
    ),
    tfds.features.FeaturesDict(
      {
        name: feature
        for name, feature in available.items()
        if features is None or name in features
      }
    ),
    folder=os.fspath(builder.data_dir),
    split=split,
  )


def full_name(builder: tfds.core.DatasetBuilder) -> str:
  """Returns `dataset/config:version`, which `find` accepts."""
  return f'{builder.name}/{builder.info.config_name}:{builder.version}'
