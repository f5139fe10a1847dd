"""A folder → its `metadata.json`, checked, and what a kind of dataset promises.

Readers rely on this document and on the code of the kind alone. What TFDS
writes beside it, `features.json` and `dataset_info.json`, is for readers
without this project; `verification` compares it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import json
from pathlib import Path
import re
from typing import Annotated, Any, NamedTuple

from carracing_data import errors
from carracing_data import json_documents
from carracing_data import rlds_steps
import pydantic

_Count = Annotated[int, pydantic.Field(ge=0, lt=2**40)]
_MOST = 1e6  # Of a return; larger ones are damage, and unreadable.
_ROUNDING = 0.01  # Of a mean of float32.
_Split = Annotated[
  str, pydantic.StringConstraints(pattern='^(train|validation)$')
]
_FULL_NAME = (
  rf'^{json_documents.NAME}/{json_documents.NAME}'
  r':\d{1,4}\.\d{1,4}\.\d{1,4}$'
)
SEAL = 'metadata_sha256'
FILE = 'metadata.json'
INFO_FILE = 'dataset_info.json'  # This one and the next are TFDS's.
FEATURES_FILE = 'features.json'


class Feature(NamedTuple):
  """A feature of the records of a kind of dataset.

  Attributes:
    dtype: name of the NumPy dtype.
    shape: sizes of the dimensions; None is any size, and a name any that is the
      same in all records of a dataset.
    since: first version whose datasets have the feature.
  """

  dtype: str
  shape: tuple[int | str | None, ...] = ()
  since: str = '1.0.0'


class Kind(NamedTuple):
  """A kind of dataset, with the schemas and checks that its readers need.

  Attributes:
    name: name of the dataset.
    config: schema of the config in `metadata.json`.
    records_of_episode: number of steps of an episode → its number of records.
    features: the features of a record, by name.
    broken_promises: checks the decoded records of a split, in order; adds each
      episode to the totals, and yields each problem of the record read last.
    version: the version that this code builds; it reads those before.
    attachments: config → digests of the files besides the shards, by name.
  """

  name: str
  config: type[json_documents.Document]
  records_of_episode: Callable[[int], int]
  features: Mapping[str, Feature]
  broken_promises: Callable[
    [Iterable[Mapping[str, Any]], rlds_steps.Totals], Iterator[str]
  ]
  version: str
  attachments: Callable[[Mapping[str, Any]], Mapping[str, str]] = lambda _: {}


class SplitMetadata(json_documents.Document):
  """Metadata of a split.

  Attributes:
    content_sha256: digest of the decoded records, independent of sharding.
    num_episodes: number of episodes.
    num_steps: number of steps of all episodes.
    num_terminated: number of episodes that ended in a terminal state; the
      others were truncated. None in version 1.0.0.
    episode_steps: number of steps of each episode.
    num_bytes: size of the serialized records, before compression.
    shard_lengths: number of records of each shard. None in version 1.0.0.
    return_mean: mean of the returns of the episodes.
    return_std: standard deviation of the returns (divisor n).
    return_min: lowest return.
    return_max: highest return.
  """

  content_sha256: json_documents.Sha256
  num_episodes: _Count
  num_steps: _Count
  num_terminated: _Count | None = None
  episode_steps: list[_Count]
  num_bytes: _Count
  shard_lengths: list[_Count] | None = None
  return_mean: float
  return_std: float
  return_min: float
  return_max: float


class Metadata(json_documents.Document):
  """Schema of `metadata.json`, which our builders write.

  Attributes:
    name: `dataset/config:version`; absent in version 1.0.0, where the folder
      has the name.
    config: all choices of the user that affect the data.
    packages: versions of the packages that may affect the data.
    platform: device and settings that may affect the data, by name; absent from
      older datasets and where nothing does.
    splits: metadata of each split, by name.
    files_sha256: digest of each shard, and of each attached file, by name.
    metadata_sha256: digest of all of the above, see `json_documents.sealed`.
  """

  name: Annotated[str, pydantic.StringConstraints(pattern=_FULL_NAME)] = ''
  config: dict[str, Any]
  packages: dict[json_documents.Name, json_documents.Version]
  platform: dict[json_documents.Name, str] = {}
  splits: Annotated[dict[_Split, SplitMetadata], pydantic.Field(min_length=2)]
  files_sha256: dict[json_documents.Name, json_documents.Sha256]
  metadata_sha256: json_documents.Sha256

  @property
  def dataset(self) -> str:
    """Name of the dataset, without config and version."""
    return self.name.partition('/')[0]

  def shards(self, split: str) -> list[str]:
    """Returns the names of the files of a split, in order."""
    stem = f'{self.dataset}-{split}.array_record'
    count = sum(name.startswith(f'{stem}-') for name in self.files_sha256)
    return [f'{stem}-{i:05d}-of-{count:05d}' for i in range(count)]


def check_folder(
  folder: Path, kinds: Sequence[Kind] = ()
) -> tuple[Metadata, Kind | None]:
  """Checks that a folder holds a complete dataset with consistent metadata.

  Reads `metadata.json` only; `verification.verify` reads the rest.

  Args:
    folder: folder of a prepared dataset.
    kinds: accepted kinds of dataset; all if empty.

  Returns:
    The dataset's metadata, and its kind if any are given.

  Raises:
    errors.DatasetError: a check failed; the message names the problem.
  """
  path = folder / FILE
  try:
    metadata = json_documents.read(path, Metadata)
  except FileNotFoundError:
    if not folder.exists():
      raise errors.DatasetError(f'there is no folder {folder}') from None
    raise errors.DatasetError(
      f'{folder} holds no complete dataset of this project: {FILE} is missing'
    ) from None
  except errors.DocumentError as error:
    raise errors.DatasetError(str(error)) from None
  if not json_documents.is_sealed(
    metadata.model_dump(exclude_unset=True), SEAL
  ):
    raise errors.DatasetError(f'{path} was edited')
  if 'name' not in metadata.model_fields_set:
    name = '{}/{}:{}'.format(*('', '', *folder.absolute().parts)[-3:])
    if not re.match(_FULL_NAME, name):
      raise errors.DatasetError(
        f'{folder} holds a dataset of version 1.0.0, whose name is that of its'
        ' folder; move it to DATASET/CONFIG/VERSION'
      )
    metadata = metadata.model_copy(update={'name': name})
  kind = {kind.name: kind for kind in kinds}.get(metadata.dataset)
  if kinds and kind is None:
    wanted = ' or '.join(kind.name for kind in kinds)
    raise errors.DatasetError(
      f'{folder} is a {metadata.dataset} dataset, but {wanted} is needed here'
    )
  if kind is not None:
    major, ours = (
      int(x.partition('.')[0])
      for x in (metadata.name.rpartition(':')[2], kind.version)
    )
    if not 1 <= major <= ours:
      raise errors.DatasetError(
        f'{path} names {metadata.name}, which this code cannot read; update it'
      )
    _check_counts(path, metadata, kind)
    try:
      json_documents.parse(
        json.dumps(metadata.config), kind.config, f'{path}: config'
      )
    except errors.DocumentError as error:
      raise errors.DatasetError(str(error)) from None
    shards = {x for split in metadata.splits for x in metadata.shards(split)}
    attached = kind.attachments(metadata.config)
    if {
      name: None if name in shards else sha256
      for name, sha256 in metadata.files_sha256.items()
    } != {**dict.fromkeys(shards), **attached}:
      raise errors.DatasetError(
        f'{path} was edited: files_sha256 contradicts config'
      )
  for name in INFO_FILE, FEATURES_FILE, *metadata.files_sha256:
    if not (folder / name).is_file():
      raise errors.DatasetError(
        f'{folder}: {name} is missing; copy the dataset again, or delete the'
        ' folder and build it again'
      )
  return metadata, kind


def _check_counts(path: Path, metadata: Metadata, kind: Kind) -> None:
  """Raises DatasetError if the counts of a split are inconsistent."""
  for name, split in metadata.splits.items():
    steps, lengths = split.episode_steps, split.shard_lengths
    num_records = sum(map(kind.records_of_episode, steps))
    if (
      not steps
      or min(steps) < 2
      or len(steps) != split.num_episodes
      or sum(steps) != split.num_steps
      or (split.num_terminated or 0) > len(steps)
      or not -_MOST <= split.return_min <= split.return_mean + _ROUNDING
      or not split.return_mean - _ROUNDING <= split.return_max <= _MOST
      or not 0 <= split.return_std <= _MOST
      or (
        None in (lengths, split.num_terminated)
        and not metadata.name.endswith(':1.0.0')
      )
      or (
        lengths is not None
        and (len(lengths), sum(lengths))
        != (len(metadata.shards(name)), num_records)
      )
    ):
      raise errors.DatasetError(
        f'{path}: the counts of {name} contradict each other'
      )
