"""Schemas and consistency checks of a prepared dataset's JSON documents.

TFDS runs code named in `features.json` and reads files named in
`dataset_info.json`. So this module checks a folder, without TFDS, before TFDS
opens it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import json
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from carracing_data import errors
from carracing_data import json_documents
from carracing_data import rlds_steps
import pydantic

_Version = Annotated[
  str, pydantic.StringConstraints(pattern=r'^\d{1,4}\.\d{1,4}\.\d{1,4}$')
]
_Number = Annotated[str, pydantic.StringConstraints(pattern=r'^-?\d{1,15}$')]
_Count = Annotated[int, pydantic.Field(ge=0, lt=2**40)]
SEAL = 'metadata_sha256'


class Kind(NamedTuple):
  """A kind of dataset, with the schemas and checks that its readers need.

  Attributes:
    name: name of the dataset.
    config: schema of the config in `metadata.json`.
    records_of_episode: number of steps of an episode → its number of records.
    features: dtype and shape of each feature, by name; None, or a name, is a
      dimension of any size.
    broken_promises: checks the decoded records of a split, in order; appends
      a summary of each episode to the list, and yields each problem of the
      record read last.
    attachments: config → digests of the files besides the shards, by name.
  """

  name: str
  config: type[json_documents.Document]
  records_of_episode: Callable[[int], int]
  features: Mapping[str, tuple[str, tuple[int | str | None, ...]]]
  broken_promises: Callable[
    [Iterable[Mapping[str, Any]], list[rlds_steps.Summary]], Iterator[str]
  ]
  attachments: Callable[[Mapping[str, Any]], Mapping[str, str]] = lambda _: {}


class _Split(json_documents.Document):
  name: json_documents.Name
  filepathTemplate: Literal['{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}']
  shardLengths: list[_Number]
  numBytes: _Number = '0'


class _Location(json_documents.Document):
  urls: list[str] = []


class _DatasetInfo(json_documents.Document):
  """Schema of `dataset_info.json`, as TFDS writes it for our builders."""

  name: json_documents.Name
  version: _Version
  configName: json_documents.Name
  fileFormat: Literal['array_record']
  splits: list[_Split]
  citation: str = ''
  configDescription: str = ''
  description: str = ''
  disableShuffling: bool = False
  downloadSize: _Number = '0'
  location: _Location = _Location()
  moduleName: str = ''
  releaseNotes: dict[str, str] = {}


class _Shape(json_documents.Document):
  dimensions: list[_Number] = []


class _Tensor(json_documents.Document):
  dtype: Literal['bool', 'float32', 'int32', 'int64', 'uint8']
  encoding: Literal['bytes', 'none']
  shape: _Shape


class _Feature(json_documents.Document):
  pythonClassName: Literal[
    'tensorflow_datasets.core.features.tensor_feature.Tensor',
    'tensorflow_datasets.core.features.scalar.Scalar',
  ]
  tensor: _Tensor


class _FeaturesDict(json_documents.Document):
  features: dict[json_documents.Name, _Feature]


class _Features(json_documents.Document):
  """Schema of `features.json`; TFDS imports the modules named in it."""

  pythonClassName: Literal[
    'tensorflow_datasets.core.features.features_dict.FeaturesDict'
  ]
  featuresDict: _FeaturesDict


class SplitMetadata(json_documents.Document):
  """Metadata of a split.

  Attributes:
    content_sha256: digest of the decoded records, independent of sharding.
    num_episodes: number of episodes.
    num_steps: number of steps of all episodes.
    num_terminated: number of episodes that ended in a terminal state; the
      others were truncated.
    episode_steps: number of steps of each episode.
    num_bytes: size of the serialized records, before compression.
    shard_lengths: number of records of each shard.
    return_mean: mean of the returns of the episodes.
    return_std: standard deviation of the returns.
    return_min: lowest return.
    return_max: highest return.
  """

  content_sha256: json_documents.Sha256
  num_episodes: _Count
  num_steps: _Count
  num_terminated: _Count
  episode_steps: list[_Count]
  num_bytes: _Count
  shard_lengths: list[_Count]
  return_mean: float
  return_std: float
  return_min: float
  return_max: float


class Metadata(json_documents.Document):
  """Schema of `metadata.json`, which our builders write.

  Attributes:
    name: `dataset/config:version`.
    config: all choices of the user that affect the data.
    packages: versions of the packages that may affect the data.
    platform: device and settings that may affect the data, by name; absent from
      older datasets and where nothing does.
    splits: metadata of each split, by name.
    files_sha256: digest of each shard, and of each attached file, by name.
    metadata_sha256: digest of all of the above, see `json_documents.sealed`.
  """

  name: str
  config: dict[str, Any]
  packages: dict[json_documents.Name, str]
  platform: dict[json_documents.Name, str] = {}
  splits: dict[json_documents.Name, SplitMetadata]
  files_sha256: dict[json_documents.Name, json_documents.Sha256]
  metadata_sha256: json_documents.Sha256


def check_folder(folder: Path, kinds: Sequence[Kind] = ()) -> Metadata:
  """Checks that a folder holds a complete dataset with consistent documents.

  Reads the documents only; `verification.verify` reads the records.

  Args:
    folder: folder of a prepared dataset.
    kinds: accepted kinds of dataset; all if empty.

  Returns:
    The dataset's metadata.

  Raises:
    errors.DatasetError: a check failed; the message names the problem.
  """
  try:
    info = json_documents.read(folder / 'dataset_info.json', _DatasetInfo)
    features = json_documents.read(folder / 'features.json', _Features)
    metadata = json_documents.read(folder / 'metadata.json', Metadata)
  except FileNotFoundError as error:
    raise errors.DatasetError(
      f'{folder} holds no complete dataset of this project:'
      f' {Path(error.filename).name} is missing'
    ) from None
  except errors.DocumentError as error:
    raise errors.DatasetError(str(error)) from None
  if not json_documents.is_sealed(
    metadata.model_dump(exclude_unset=True), SEAL
  ):
    raise errors.DatasetError(f'{folder}/metadata.json was edited')
  _check_agreement(folder, info, metadata)
  if kinds:
    kind = _kind(folder, info.name, kinds)
    _check_features(folder, features, kind)
    _check_counts(folder, metadata, kind)
    json_documents.parse(
      json.dumps(metadata.config),
      kind.config,
      f'{folder}/metadata.json: config',
    )
    attached = {
      name: sha256
      for name, sha256 in metadata.files_sha256.items()
      if not _is_shard(name)
    }
    if attached != kind.attachments(metadata.config):
      raise errors.DatasetError(
        f'{folder}/metadata.json was edited: files_sha256 contradicts config'
      )
  for name in metadata.files_sha256:
    if not (folder / name).is_file():
      raise errors.DatasetError(
        f'{folder}: {name} is missing; copy the dataset again, or delete the'
        ' folder and build it again'
      )
  return metadata


def _check_agreement(
  folder: Path, info: _DatasetInfo, metadata: Metadata
) -> None:
  """Raises DatasetError if `dataset_info.json` differs from the metadata."""
  lengths = {s.name: [int(n) for n in s.shardLengths] for s in info.splits}
  files = {
    f'{info.name}-{split}.array_record-{index:05d}-of-{len(shards):05d}'
    for split, shards in lengths.items()
    for index in range(len(shards))
  }
  sealed_lengths = {
    name: split.shard_lengths for name, split in metadata.splits.items()
  }
  for what, found, expected in (
    (
      'name',
      f'{info.name}/{info.configName}:{info.version}',
      metadata.name,
    ),
    ('shard lengths', lengths, sealed_lengths),
    (
      'sizes',
      {s.name: int(s.numBytes) for s in info.splits},
      {name: split.num_bytes for name, split in metadata.splits.items()},
    ),
    (
      'shards',
      files,
      {name for name in metadata.files_sha256 if _is_shard(name)},
    ),
  ):
    if found != expected:
      raise errors.DatasetError(
        f'{folder}/dataset_info.json was edited: it differs from metadata.json'
        f' in {what}'
      )


def _is_shard(name: str) -> bool:
  return '.array_record-' in name


def _kind(folder: Path, name: str, kinds: Sequence[Kind]) -> Kind:
  wanted = {kind.name: kind for kind in kinds}
  if name not in wanted:
    raise errors.DatasetError(
      f'{folder} is a {name} dataset, but {" or ".join(wanted)} is needed here'
    )
  return wanted[name]


def _check_counts(folder: Path, metadata: Metadata, kind: Kind) -> None:
  """Raises DatasetError if the counts of a split are inconsistent."""
  for name, split in metadata.splits.items():
    steps = split.episode_steps
    if (
      not steps
      or min(steps) < 2
      or len(steps) != split.num_episodes
      or sum(steps) != split.num_steps
      or sum(map(kind.records_of_episode, steps)) != sum(split.shard_lengths)
    ):
      raise errors.DatasetError(
        f'{folder}/metadata.json: the counts of {name} contradict each other'
      )


def _check_features(folder: Path, features: _Features, kind: Kind) -> None:
  """Raises DatasetError if the features do not match a kind."""
  found = {
    name: (
      feature.tensor.dtype,
      tuple(int(n) for n in feature.tensor.shape.dimensions),
    )
    for name, feature in features.featuresDict.features.items()
  }
  for name in sorted({*kind.features, *found}):
    dtype, shape = found.get(name, ('absent', ()))
    wanted_dtype, wanted = kind.features.get(name, ('absent', ()))
    if (
      dtype != wanted_dtype
      or len(shape) != len(wanted)
      or any(isinstance(a, int) and a != b for a, b in zip(wanted, shape))
    ):
      raise errors.DatasetError(
        f'{folder}/features.json was edited: {name} is {dtype}{list(shape)},'
        f' not {wanted_dtype}{list(wanted)}'
      )
