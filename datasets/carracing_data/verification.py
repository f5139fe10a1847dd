"""Checks that a prepared dataset matches its metadata, in constant memory."""

from collections.abc import Callable, Iterator, Mapping
import json
from typing import Any

from array_record.python import array_record_module  # pyright: ignore
from carracing_data import digests
from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
from carracing_data import metadata
from carracing_data import prepared_dataset
from carracing_data import rlds_steps
from google.protobuf import json_format
import pydantic


def verify(
  dataset: prepared_dataset.Dataset,
  on_shard: Callable[[], Any] = lambda: None,
) -> None:
  """Reads a whole prepared dataset and checks it against its metadata.

  Its kind must be known. `on_shard` is called after each shard.

  Raises:
    errors.DatasetError: a check failed; the message names the first bad record.
  """
  assert dataset.kind is not None
  _check_tfds_documents(dataset)
  for name in dataset.kind.attachments(dataset.config):
    path = dataset.folder / name
    if digests.of_file(path) != dataset.metadata.files_sha256[name]:
      raise errors.DatasetError(
        f'{path} is not the file that was written; restore it from another copy'
      )
  for split, recorded in dataset.splits.items():
    content, totals = digests.SplitDigest(), rlds_steps.Totals()
    records = _records(dataset, split, content, on_shard)
    for problem in dataset.kind.broken_promises(records, totals):
      raise errors.DatasetError(
        f'{dataset.folder}: {split} record {content.num_records - 1}: {problem}'
      )
    found = {'content_sha256': content.hexdigest(), **totals.statistics()}
    for name, value in recorded.model_dump(exclude_unset=True).items():
      if found.get(name, value) != value:
        raise errors.DatasetError(
          f'{dataset.folder}/metadata.json: {name} of {split} does not'
          ' match the records'
        )


def _records(
  dataset: prepared_dataset.Dataset,
  split: str,
  content: digests.SplitDigest,
  on_shard: Callable[[], Any],
) -> Iterator[Mapping[str, Any]]:
  """Yields the decoded records of a split, and adds them to its digest.

  Raises:
    errors.DatasetError: a file is damaged or not the one that was written.
  """
  names = dataset.metadata.shards(split)
  lengths = dataset.splits[split].shard_lengths or [None] * len(names)
  for name, length in zip(names, lengths):
    path = dataset.folder / name
    first = content.num_records
    last = '' if length is None else first + length - 1
    where = f'{dataset.folder}: shard {name} ({split} records {first}..{last})'
    files.check_readable(path)
    try:
      reader = array_record_module.ArrayRecordReader(str(path))
    except RuntimeError as error:
      raise errors.DatasetError(
        f'{where} {prepared_dataset.what_failed(error)}'
      ) from error
    found = reader.num_records()
    if length is not None and found != length:
      what = 'is truncated'
      if found:
        what = f'has {found} records: it is from another version'
      raise errors.DatasetError(f'{where} {what}')
    intact = digests.of_file(path) == dataset.metadata.files_sha256[name]
    for position in range(found):
      try:
        [serialized] = reader.read([position])
        record: Any = dataset.features.deserialize_example_np(serialized)
      except prepared_dataset.UNREADABLE as error:
        raise errors.DatasetError(
          f'{dataset.folder}: {split} record {first + position}, in {name},'
          f' {prepared_dataset.what_failed(error)}'
        ) from error
      content.update([digests.of_record(record)])
      yield record
    if not intact:
      raise errors.DatasetError(
        f'{where} is readable but not the one that was written (it is from'
        ' another version, or a byte between records was flipped)'
      )
    on_shard()


class _Split(pydantic.BaseModel):
  name: str
  filepathTemplate: str
  shardLengths: list[int]
  numBytes: int = 0


class _Info(pydantic.BaseModel):
  """What TFDS takes from `dataset_info.json` to read a dataset."""

  name: str
  version: str
  configName: str
  fileFormat: str
  splits: list[_Split]


def _check_tfds_documents(dataset: prepared_dataset.Dataset) -> None:
  """Checks what readers that use TFDS alone rely on.

  Raises:
    errors.DatasetError: a document of TFDS is damaged, or contradicts the
      metadata and the features of this kind of dataset.
  """
  path = dataset.folder / metadata.INFO_FILE
  found = json_documents.read(path, _Info)
  lengths = {split.name: split.shardLengths for split in found.splits}
  expected = _Info(
    name=dataset.name,
    version=str(dataset.version),
    configName=dataset.config_name,
    fileFormat='array_record',
    splits=[
      _Split(
        name=name,
        filepathTemplate='{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
        shardLengths=split.shard_lengths or lengths.get(name, []),
        numBytes=split.num_bytes,
      )
      for name, split in dataset.splits.items()
    ],
  )
  for name, value in found:
    if value != getattr(expected, name):
      raise errors.DatasetError(
        f'{path} was edited: it differs from metadata.json in {name}'
      )
  path = dataset.folder / metadata.FEATURES_FILE
  content = json_documents.read(path, pydantic.RootModel[dict[str, Any]]).root
  expected = json_format.MessageToDict(dataset.features.to_proto())
  if content != json.loads(json.dumps(expected)):
    raise errors.DatasetError(
      f'{path} was edited: these are not the features of {dataset.full_name}'
    )


def compare(
  first: prepared_dataset.Dataset, second: prepared_dataset.Dataset
) -> str | None:
  """Describes the first difference in content of two datasets of known kind.

  Returns None if the content is equal.
  """
  for split in {**first.splits, **second.splits}:
    for dataset in first, second:
      if split not in dataset.splits:
        return f'only one of the datasets has the split {split}'
    sources = [dataset.records(split) for dataset in (first, second)]
    for index, (a, b) in enumerate(zip(*sources)):
      if digests.of_record(a) != digests.of_record(b):
        names = [
          name
          for name in {**a, **b}
          if digests.of_record({name: a.get(name, 0)})
          != digests.of_record({name: b.get(name, 0)})
        ]
        return f'{split} record {index} differs in {", ".join(names)}'
    here, there = map(len, sources)
    if here != there:
      return f'{split} has {here} records in one and {there} in the other'
  return None
