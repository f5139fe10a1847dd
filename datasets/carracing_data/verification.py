"""Checks that a prepared dataset is what its metadata says it is."""

from collections.abc import Iterable, Iterator, Mapping
import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

from array_record.python import array_record_module  # pyright: ignore
from carracing_data import digests
from carracing_data import errors
from carracing_data import prepared
import tensorflow_datasets as tfds

Metadata = Mapping[str, Any]


def sealed(metadata: Metadata) -> dict[str, Any]:
  """Adds the digest of metadata to it, so that later edits show."""
  return {**metadata, 'metadata_sha256': _metadata_digest(metadata)}


def _metadata_digest(metadata: Metadata) -> str:
  text = json.dumps(
    {k: v for k, v in metadata.items() if k != 'metadata_sha256'},
    sort_keys=True,
  )
  return hashlib.sha256(text.encode()).hexdigest()


def verify(
  builder: tfds.core.DatasetBuilder,
  problems_of: Mapping[str, Any],
  progress: Any = lambda shards: shards,
) -> None:
  """Reads all of a prepared dataset and checks every promise.

  Args:
    builder: what `prepared.find` returned.
    problems_of: for each dataset, a function from records, in order, to what
      is wrong with them.
    progress: wraps the iteration over shards.

  Raises:
    errors.DatasetError: the first thing that is wrong, and at which record.
  """
  info: Any = builder.info
  metadata = info.metadata
  if not metadata or 'metadata_sha256' not in metadata:
    raise errors.DatasetError(
      f'{builder.data_dir} has no metadata.json of ours'
    )
  if metadata['metadata_sha256'] != _metadata_digest(metadata):
    raise errors.DatasetError(f'{builder.data_dir}/metadata.json was edited')
  shards = [
    (split, index, path)
    for split, split_info in info.splits.items()
    for index, path in enumerate(split_info.filepaths)
  ]
  names = {Path(path).name for _, _, path in shards}
  if names != set(metadata['files_sha256']):
    raise errors.DatasetError(
      f'{builder.data_dir}/dataset_info.json was edited: its shards are not'
      ' those of metadata.json'
    )
  record_digests = {split: [] for split in info.splits}
  by_split = itertools.groupby(progress(shards), key=lambda shard: shard[0])
  for split, split_shards in by_split:

    def records(
      split: str = split, split_shards: Iterable[Any] = split_shards
    ) -> Iterator[Mapping[str, Any]]:
      for _, index, path in split_shards:
        for record in _read_shard(builder, split, index, Path(path)):
          record_digests[split].append(digests.of_record(record))
          yield record

    for problem in problems_of[builder.name](records()):
      position = len(record_digests[split]) - 1
      raise errors.DatasetError(
        f'{builder.data_dir}: {split} record {position}: {problem}'
      )
  for split, found in record_digests.items():
    recorded = metadata['splits'][split]
    if digests.of_split(found) != recorded['content_sha256']:
      raise errors.DatasetError(
        f'{builder.data_dir}: the content of {split} is not the recorded one'
      )


def _read_shard(
  builder: tfds.core.DatasetBuilder, split: str, index: int, path: Path
) -> Iterator[Mapping[str, Any]]:
  """Yields the decoded records of a shard.

  Args:
    builder: of the dataset.
    split: the shard's split.
    index: the shard's number within the split.
    path: of the file.

  Raises:
    errors.DatasetError: the file is not the one that was written.
  """
  info: Any = builder.info
  lengths = info.splits[split].shard_lengths
  first, length = sum(lengths[:index]), lengths[index]
  where = f'{path.name} ({split} records {first}..{first + length - 1})'
  if not path.exists():
    raise errors.DatasetError(f'{builder.data_dir}: shard {where} is missing')
  reader = array_record_module.ArrayRecordReader(str(path))
  if reader.num_records() == 0 and length:
    raise errors.DatasetError(f'{builder.data_dir}: shard {where} is truncated')
  if reader.num_records() != length:
    raise errors.DatasetError(
      f'{builder.data_dir}: shard {where} has {reader.num_records()} records:'
      ' dataset_info.json was edited, or the shard is of another version'
    )
  intact = digests.of_file(path) == info.metadata['files_sha256'][path.name]
  for position in range(reader.num_records()):
    try:
      [record] = reader.read([position])
      yield info.features.deserialize_example_np(record)
    except (RuntimeError, ValueError) as error:
      raise errors.DatasetError(
        f'{builder.data_dir}: {split} record {first + position}, in'
        f' {path.name}, is damaged ({str(error).splitlines()[0][:80]})'
      ) from error
  if not intact:
    raise errors.DatasetError(
      f'{builder.data_dir}: shard {where} is readable but not the one that was'
      ' written (of another version, or a byte between records was flipped)'
    )


def compare(
  first: tfds.core.DatasetBuilder, second: tfds.core.DatasetBuilder
) -> str | None:
  """Says where two prepared datasets first differ in content.

  Args:
    first: what `prepared.find` returned.
    second: likewise.

  Returns:
    The first difference; None if they hold the same content.
  """
  for split in {**first.info.splits, **second.info.splits}:
    sources = []
    for builder in first, second:
      if split not in builder.info.splits:
        return f'only one of them has the split {split}'
      sources.append(prepared.records(builder, split))
    for index, (a, b) in enumerate(zip(*sources)):
      if digests.of_record(a) != digests.of_record(b):
        names = [
          name
          for name in {**a, **b}
          if digests.of_record({name: a.get(name, 0)})
          != digests.of_record({name: b.get(name, 0)})
        ]
        return f'{split} record {index} differs in {", ".join(names)}'
    sizes = [len(source) for source in sources]
    if sizes[0] != sizes[1]:
      return (
        f'{split} has {sizes[0]} records in one and {sizes[1]} in the other'
      )
  return None
