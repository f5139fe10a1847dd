"""Finds prepared datasets on disk and reads them, without their builders.

Only the data directory is needed: neither TensorFlow nor the builder is
imported. Of a folder, `metadata.json` and the shards are read; what they hold
is decoded as our own code says, so folders from untrusted sources are safe.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import difflib
import functools
import json
import os
from pathlib import Path
import re
import resource
from typing import Any, NamedTuple, TypeVar

from carracing_data import digests
from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
from carracing_data import metadata as metadata_lib
from carracing_data import processes
from etils import epath
from etils import epy
from google.protobuf import message
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants

with epy.lazy_imports():
  import grain  # Imports JAX, which finding a dataset does not need.

_FULL_NAME = re.compile(
  rf'({json_documents.NAME})(?:/({json_documents.NAME}))?(?::(\d+\.\d+\.\d+))?'
)
# Where datasets that can be built have their folders.
_BUILDERS, _BUILDER = Path(__file__).parents[1], '*/*_dataset_builder.py'
_DIGEST = re.compile('[0-9a-f]{8,64}')
_NO_DIGEST = (
  'is not a digest: 8 to 64 of the digits 0-9 and a-f, which a build and'
  ' tools.verify print'
)


def features_of(
  features: Mapping[str, metadata_lib.Feature], **sizes: int
) -> tfds.features.FeaturesDict:
  """Returns features as TFDS stores them: arrays as bytes.

  Args:
    features: features, by name.
    **sizes: sizes of the named dimensions.
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
    {name: feature(x.dtype, x.shape) for name, x in features.items()}
  )


_T = TypeVar('_T')


@dataclasses.dataclass(eq=False)
class Lazy(Sequence[_T]):
  """A sequence whose items are read on access; slices are such sequences.

  Unlike a Grain dataset it ends: an index beyond its length is an IndexError.
  """

  read: Callable[[int], _T]
  indices: range

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, index: Any) -> Any:
    found = self.indices[index]
    return (
      Lazy(self.read, found) if isinstance(found, range) else self.read(found)
    )

  def __iter__(self) -> Iterator[_T]:  # An IndexError of `read` is no end.
    return map(self.read, self.indices)


@dataclasses.dataclass(eq=False)
class Records(Sequence[Any]):
  """The records of a split; decodes only the requested features."""

  _serialized: Sequence[bytes]
  _features: tfds.features.FeaturesDict
  _folder: Path
  _split: str

  def __len__(self) -> int:
    return len(self._serialized)

  def __getitem__(self, index: Any) -> Any:
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    index = range(len(self))[index]
    processes.refuse_fork('ArrayRecord')
    try:
      record: Any = self._features.deserialize_example_np(
        self._serialized[index]
      )
      if len({len(x) for x in record.values() if np.ndim(x)}) > 1:
        raise ValueError('its features differ in their number of steps')
      return record
    except UNREADABLE as error:
      for shard in self._folder.glob(f'*-{self._split}.array_record-*'):
        files.check_readable(shard)
      raise errors.DatasetError(
        f'{self._split} record {index} of {self._folder}'
        f' {what_failed(error)}; diagnose it with: python -m tools.verify'
        f' --dataset={self._folder}'
      ) from error


# What reading and decoding a record raises.
UNREADABLE = (KeyError, RuntimeError, ValueError, message.DecodeError)


def what_failed(error: Exception) -> str:
  """Returns what to say of a record that can be read, but not understood."""
  return f'is damaged ({str(error).splitlines()[0][:80]})'


def concatenated(parts: Sequence[Sequence[Any]]) -> Any:
  """Returns a sequence: the records, or episodes, of several datasets."""
  sources: Any = [grain.MapDataset.source(part) for part in parts]
  return grain.MapDataset.concatenate(sources)


class _Shard(NamedTuple):
  """What ArrayRecord needs of a shard, so that it opens it only to read."""

  filename: str
  skip: int
  take: int
  examples_in_shard: int


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A prepared dataset, opened by `find`.

  Attributes:
    folder: folder of the dataset.
    metadata: content of its `metadata.json`.
    kind: kind of the dataset; None if any was accepted, and then its records
      cannot be decoded.
  """

  folder: Path
  metadata: metadata_lib.Metadata
  kind: metadata_lib.Kind | None = None

  @property
  def full_name(self) -> str:
    """`dataset/config:version`, which `find` accepts."""
    return self.metadata.name

  @property
  def name(self) -> str:
    """Name of the dataset, without config and version."""
    return self.metadata.dataset

  @property
  def config_name(self) -> str:
    return self.full_name.partition('/')[2].partition(':')[0]

  @property
  def version(self) -> tfds.core.Version:
    return tfds.core.Version(self.full_name.rpartition(':')[2])

  @property
  def config(self) -> dict[str, Any]:
    """All choices of the user that affect the data; see the kind's schema."""
    return self.metadata.config

  @property
  def splits(self) -> dict[str, metadata_lib.SplitMetadata]:
    """Statistics and digest of each split, by name."""
    return self.metadata.splits

  @property
  def content_digests(self) -> dict[str, str]:
    """SHA-256 of the content of each split, as it is recorded."""
    return {name: split.content_sha256 for name, split in self.splits.items()}

  @property
  def digest(self) -> str:
    """SHA-256 of the content of all splits, as it is recorded.

    `verification.verify` checks that the records have it.
    """
    return digests.of_dataset(self.content_digests)

  @property
  def citation(self) -> str:
    """`dataset/config:version@DIGEST`, which `find` accepts."""
    return f'{self.full_name}@{self.digest[: digests.SHORT]}'

  @functools.cached_property
  def features(self) -> tfds.features.FeaturesDict:
    """The features of a record, as this version of the dataset has them."""
    return features_of(self._features(), **self.feature_sizes)

  def _features(self) -> dict[str, metadata_lib.Feature]:
    assert self.kind is not None
    return {
      name: feature
      for name, feature in self.kind.features.items()
      if tfds.core.Version(feature.since) <= self.version
    }

  @functools.cached_property
  def feature_sizes(self) -> dict[str, int]:
    """Sizes of the dimensions with a name, which TFDS has written down."""
    path = self.folder / metadata_lib.FEATURES_FILE
    sizes = {}
    for name, feature in self._features().items():
      for axis, size in enumerate(feature.shape):
        if isinstance(size, str):
          text = files.read_bytes(path)
          try:
            content = json.loads(text)
            tensor = content['featuresDict']['features'][name]['tensor']
            written = tensor['shape']['dimensions'][axis]
            if not re.fullmatch('[1-9][0-9]{0,5}', written):
              raise ValueError
            sizes[size] = int(written)
          except (IndexError, KeyError, RecursionError, TypeError, ValueError):
            raise errors.DatasetError(
              f'{path} is damaged: it has no {size}; copy the dataset again'
            ) from None
    return sizes

  def records(
    self, split: str, features: Sequence[str] | None = None
  ) -> Records:
    """Returns the decoded records of a split, for random access.

    Args:
      split: name of the split.
      features: names of the features to decode; all if None.

    Raises:
      errors.DatasetError: the dataset has no such split or feature.
    """
    if split not in self.splits:
      raise errors.DatasetError(
        f'{self.full_name} has no split {split!r}, only'
        f' {", ".join(self.splits)}'
      )
    for name in features or ():
      if name not in self.features:
        raise errors.DatasetError(
          f'{self.full_name} has no {name}; build it again, in a later version'
        )
    decoded = self.features
    if features is not None:
      decoded = tfds.features.FeaturesDict({x: decoded[x] for x in features})
    os.fspath(self.folder).encode()  # ArrayRecord opens UTF-8 alone.
    shards: list[Any] = [
      os.fspath(self.folder / name) for name in self.metadata.shards(split)
    ]
    if (lengths := self.splits[split].shard_lengths) is not None:
      shards = [_Shard(path, 0, n, n) for path, n in zip(shards, lengths)]
    _allow_open(len(shards))
    serialized: Any = grain.sources.ArrayRecordDataSource(shards)
    return Records(serialized, decoded, self.folder, split)

  def check_digest(self, wanted: str) -> None:
    """Raises DatasetError unless the digest begins with 8 to 64 digits."""
    if not _DIGEST.fullmatch(wanted):
      raise errors.DatasetError(f'{wanted[:80]!r} {_NO_DIGEST}')
    if not self.digest.startswith(wanted):
      raise errors.DatasetError(
        f'{self.folder} holds {self.citation}, not @{wanted}; get a copy of'
        ' that one (docs/SHARING.md), or leave the digest out'
      )


def _allow_open(num_files: int) -> None:
  """Raises this process's own limit of open files, as far as it may.

  A shard stays open once it is read, and the usual limits are 256 and 1,024.
  """
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  if soft == resource.RLIM_INFINITY:
    return
  wanted = soft + num_files
  if hard != resource.RLIM_INFINITY:
    wanted = min(wanted, hard)
  with contextlib.suppress(OSError, ValueError):  # The kernel has a limit, too.
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def find_each(
  name: epath.PathLike | Sequence[epath.PathLike],
  data_dir: epath.PathLike | None,
  *kinds: metadata_lib.Kind,
) -> list[Dataset]:
  """Opens one dataset, or several; see `find`.

  Raises:
    errors.DatasetError: see `find`; or a dataset is named twice, or none is.
  """
  names = [name] if isinstance(name, str | os.PathLike) else name
  found = [find(x, data_dir, *kinds) for x in names]
  if not found:
    raise errors.DatasetError('no dataset is named')
  folders = [x.folder.resolve() for x in found]
  for x in found:
    if folders.count(x.folder.resolve()) > 1:
      raise errors.DatasetError(f'the dataset {x.full_name} is named twice')
  return found


def find(
  name: epath.PathLike,
  data_dir: epath.PathLike | None = None,
  *kinds: metadata_lib.Kind,
) -> Dataset:
  """Opens a prepared dataset; its records are not read.

  Args:
    name: `dataset`, `dataset/config` or `dataset/config:version` (by default
      the config `default` and the newest version), or the folder of a prepared
      dataset. With `@DIGEST` at its end, other data are refused: 8 to 64 digits
      of its digest.
    data_dir: data directory; defaults to `$TFDS_DATA_DIR` or
      `~/tensorflow_datasets`.
    *kinds: accepted kinds of dataset; all if empty.

  Raises:
    errors.DatasetError: the dataset is not prepared, is of another kind, has
      another digest, or has damaged metadata.
    errors.UserError: a name is an address, or may not be read.
    OSError: the operating system refuses the name, e.g. because of its length.
  """
  name, wanted = _without_digest(os.fspath(name))
  folder = files.expand(name or os.curdir).absolute()
  if not (is_folder := _is_folder(name, folder)):
    folder = _folder_of(name, data_dir)
  found, kind = metadata_lib.check_folder(folder, kinds)
  if not is_folder:  # A folder that is named may lie anywhere.
    dataset, config, version = folder.parts[-3:]
    if found.name != f'{dataset}/{config}:{version}':
      raise errors.DatasetError(
        f'{folder} is not {dataset}/{config}:{version} but {found.name}; move'
        ' it to the folder that matches its name'
      )
  opened = Dataset(folder, found, kind)
  if wanted is not None:
    opened.check_digest(wanted)
  return opened


def find_all(
  names: str,
  data_dir: epath.PathLike | None = None,
  *kinds: metadata_lib.Kind,
) -> list[Dataset]:
  """Opens `A+B`, one or several datasets; see `find`.

  A folder may have a + in its name.

  Raises:
    errors.DatasetError: see `find_each`.
  """
  folder, _ = _without_digest(names)
  is_folder = files.expand(folder or os.curdir).is_dir()
  parts = [names] if is_folder else names.split('+')
  return find_each(parts, data_dir, *kinds)


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
  if (path / metadata_lib.INFO_FILE).exists():
    return True
  return name.startswith(('/', '~', '..')) or len(Path(name).parts) > 2


def data_directory(given: epath.PathLike | None) -> Path:
  """Returns a data directory, by default TFDS's.

  Raises:
    errors.UserError: see `files.expand`.
  """
  if given is None:  # Set to nothing, the variable is as good as unset.
    given = constants.get_default_data_dir() or '~/tensorflow_datasets'
  return files.expand(given)


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
  root = data_directory(data_dir)
  folder = root / dataset / (config or 'default')
  found = []
  with contextlib.suppress(FileNotFoundError, NotADirectoryError):
    found = [*folder.iterdir()]  # Unlike `glob`, fails if it may not be read.
  versions = {
    path.name: path
    for path in found
    if tfds.core.Version.is_valid(path.name)
    and (path / metadata_lib.INFO_FILE).exists()
  }
  newest = max(versions, key=tfds.core.Version, default=None)
  if (wanted := version or newest) in versions:
    return versions[wanted]
  others = sorted(
    path.parent.relative_to(root).as_posix()
    for path in (root / dataset).glob(f'*/*/{metadata_lib.INFO_FILE}')
  )
  message = f'there is no prepared dataset {name!r} in {root}'
  if others:
    message += f' (available: {", ".join(others)})'
  known = sorted(path.parent.name for path in _BUILDERS.glob(_BUILDER))
  if dataset not in known:
    close = difflib.get_close_matches(dataset, known, 1)
    hint = (
      f'did you mean {close[0]}?'
      if close
      else 'nor is there a folder of this name'
    )
    raise errors.DatasetError(f'{message}; {hint}')
  configs = {other.split('/')[1] for other in others} - {config}
  if close := difflib.get_close_matches(config or '', configs, 1):
    message += f'; did you mean {dataset}/{close[0]}?'
  else:
    message += '.'
  message += f' Build it with: tfds build datasets/{dataset} --data_dir={root}'
  if config not in (None, 'default'):
    message += f""" --config '{{"name": "{config}", ...}}'"""
  if version:
    message += (
      '; that makes the version of this code. Get a copy of another one'
      ' (docs/SHARING.md)'
    )
  raise errors.DatasetError(message)
