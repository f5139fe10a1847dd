"""Finds prepared datasets on disk and reads them, without their builders.

Only the data directory is needed: neither TensorFlow nor the builder is
imported.
"""

from collections.abc import Sequence
import os
from pathlib import Path
import re
from typing import Any

from carracing_data import digests
from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
from carracing_data import metadata
from etils import epath
from google.protobuf import message
import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants

_FULL_NAME = re.compile(
  rf'({json_documents.NAME})(?:/({json_documents.NAME}))?(?::(\d+\.\d+\.\d+))?'
)
_DIGEST = re.compile('[0-9a-f]{8,64}')
_NO_DIGEST = (
  'is not a digest: 8 to 64 of the digits 0-9 and a-f, which a build and'
  ' tools.verify print'
)


class Records(Sequence[Any]):
  """The records of a split; decodes only the requested features."""

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

  def __getitem__(self, index: Any) -> Any:
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    index = range(len(self))[index]
    try:
      return self._features.deserialize_example_np(self._serialized[index])
    except (RuntimeError, ValueError, message.DecodeError) as error:
      raise errors.DatasetError(
        f'{self._split} record {index} of {self._folder} is damaged'
        f' ({str(error)[:80]}); diagnose it with: python -m tools.verify'
        f' --dataset={self._folder}'
      ) from error


class Concatenated(Sequence[Any]):
  """The records of several datasets, one after another."""

  def __init__(self, parts: Sequence[Records]):
    self._parts = parts

  def __len__(self) -> int:
    return sum(map(len, self._parts))

  def __getitem__(self, index: Any) -> Any:
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    index = range(len(self))[index]
    for part in self._parts:
      if index < len(part):
        return part[index]
      index -= len(part)


def find(
  name: str,
  data_dir: epath.PathLike | None = None,
  *kinds: metadata.Kind,
) -> tfds.core.DatasetBuilder:
  """Opens a prepared dataset.

  Its JSON documents are checked first, so a folder from an untrusted source is
  safe to open. Its records are not read.

  Args:
    name: `dataset`, `dataset/config` or `dataset/config:version` (by default
      the config `default` and the newest version), or the folder of a prepared
      dataset. With `@DIGEST` at its end, other data are refused: 8 to 64 digits
      of what `digest` returns.
    data_dir: data directory; defaults to `$TFDS_DATA_DIR` or
      `~/tensorflow_datasets`.
    *kinds: accepted kinds of dataset; all if empty.

  Returns:
    A read-only builder; read records with `as_data_source`.

  Raises:
    errors.DatasetError: the dataset is not prepared, is of another kind, has
      another digest, or has damaged documents.
  """
  try:
    name, wanted = _without_digest(name)
    folder = files.expand(name).absolute()
    if _is_folder(name, folder):
      metadata.check_folder(folder, kinds)
    else:
      folder = _folder_of(name, data_dir)
      found = metadata.check_folder(folder, kinds)
      dataset, config, version = folder.parts[-3:]
      if found.name != f'{dataset}/{config}:{version}':
        raise errors.DatasetError(
          f'{folder} is not {dataset}/{config}:{version} but {found.name}; move'
          ' it to the folder that matches its name'
        )
  except (OSError, ValueError) as error:  # Too long, or contains a NUL.
    if isinstance(error, errors.UserError):
      raise
    reason = getattr(error, 'strerror', None) or error
    raise errors.DatasetError(
      f'cannot read the dataset {name[:100]!r}: {reason}'
    ) from None
  builder = tfds.builder_from_directory(folder)
  if wanted is not None:
    check_digest(builder, wanted)
  return builder


def _without_digest(name: str) -> tuple[str, str | None]:
  """Splits `NAME@DIGEST`; the digest is None if there is none.

  A folder may have an @ in its name. If a digest follows it, the folder must
  hold that dataset: people name copies by what they cite.
  """
  before, at, after = name.rpartition('@')
  if not at or '/' in after:
    return name, None
  is_folder = files.expand(name).is_dir()
  if _DIGEST.fullmatch(after):
    return name if is_folder else before, after
  if is_folder:
    return name, None
  raise errors.DatasetError(f'{after[:80]!r} in {name[:200]!r} {_NO_DIGEST}')


def _is_folder(name: str, path: Path) -> bool:
  """Returns whether `name` denotes a folder and not a named dataset.

  `carracing_rollouts` is also the name of a folder in `datasets`, so a relative
  path of one or two parts counts only if it contains a dataset.
  """
  if (path / 'dataset_info.json').exists():
    return True
  return name.startswith(('/', '~', '..')) or len(Path(name).parts) > 2


def _folder_of(name: str, data_dir: epath.PathLike | None) -> Path:
  """Returns the folder of the dataset with a given name."""
  match = _FULL_NAME.fullmatch(name)
  if match is None:
    raise errors.DatasetError(
      f'{name!r} is not a dataset name; use dataset, dataset/config or'
      ' dataset/config:version (letters, digits, _, - and .), or the folder of'
      ' a prepared dataset'
    )
  dataset, config, version = match.groups()
  root = files.expand(data_dir or constants.get_default_data_dir())
  folder = root / dataset / (config or 'default')
  try:
    versions = {
      path.parent.name: path.parent
      for path in folder.glob('*/dataset_info.json')
      if tfds.core.Version.is_valid(path.parent.name)
    }
    newest = max(versions, key=tfds.core.Version, default=None)
    if (wanted := version or newest) in versions:
      return versions[wanted]
    others = sorted(
      path.parent.relative_to(root).as_posix()
      for path in (root / dataset).glob('*/*/dataset_info.json')
    )
  except OSError as error:
    raise errors.UnreadableError(
      f'cannot read {error.filename}: {error.strerror}'
    ) from None
  command = f'cd datasets && tfds build {dataset} --data_dir={root}'
  if config not in (None, 'default'):
    command += f""" --config '{{"name": "{config}", ...}}'"""
  raise errors.DatasetError(
    f'there is no prepared dataset {name!r} in {root}'
    + (f' (available: {", ".join(others)})' if others else '')
    + f'. Build it with: {command}'
  )


def records(
  builder: tfds.core.DatasetBuilder,
  split: str,
  features: Sequence[str] | None = None,
) -> Records:
  """Returns the decoded records of a split, for random access.

  Args:
    builder: a builder returned by `find`.
    split: name of the split.
    features: names of the features to decode; all if None.

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


def digest(builder: tfds.core.DatasetBuilder) -> str:
  """Returns the SHA-256 of the content of all splits, as it is recorded.

  `verification.verify` checks that the records have it.
  """
  return digests.of_dataset(content_digests(builder))


def citation(builder: tfds.core.DatasetBuilder) -> str:
  """Returns `dataset/config:version@DIGEST`, which `find` accepts."""
  return f'{full_name(builder)}@{digest(builder)[: digests.SHORT]}'


def check_digest(builder: tfds.core.DatasetBuilder, wanted: str) -> None:
  """Compares the digest of a dataset with a wanted one.

  Args:
    builder: a builder returned by `find`.
    wanted: the first digits of the digest, 8 to 64.

  Raises:
    errors.DatasetError: the dataset is another one, or `wanted` is no digest.
  """
  if not _DIGEST.fullmatch(wanted):
    raise errors.DatasetError(f'{wanted[:80]!r} {_NO_DIGEST}')
  if not digest(builder).startswith(wanted):
    raise errors.DatasetError(
      f'{builder.data_dir} holds {citation(builder)}, not @{wanted}; get a'
      ' copy of that one (docs/SHARING.md), or leave the digest out'
    )


def content_digests(builder: tfds.core.DatasetBuilder) -> dict[str, str]:
  """Returns the SHA-256 of the content of each split."""
  splits = builder.info.metadata['splits']
  return {
    split: recorded['content_sha256'] for split, recorded in splits.items()
  }
