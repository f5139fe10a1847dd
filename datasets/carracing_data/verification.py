"""Checks that a prepared dataset matches its metadata."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from array_record.python import array_record_module  # pyright: ignore
from carracing_data import digests
from carracing_data import errors
from carracing_data import metadata
from carracing_data import prepared_dataset
from carracing_data import rlds_steps
from google.protobuf import message
import tensorflow_datasets as tfds


def verify(
  builder: tfds.core.DatasetBuilder,
  kind: metadata.Kind,
  on_shard: Callable[[], Any] = lambda: None,
) -> None:
  """Reads a whole prepared dataset and checks it against its metadata.

  Args:
    builder: a builder returned by `prepared_dataset.find`, which checks the
      documents.
    kind: kind of the dataset.
    on_shard: callback, called after each shard.

  Raises:
    errors.DatasetError: a check failed; the message names the first bad record.
  """
  info: Any = builder.info
  in_shards = {
    Path(path).name
    for split_info in info.splits.values()
    for path in split_info.filepaths
  }
  for name, sha256 in info.metadata['files_sha256'].items():
    path = Path(builder.data_dir, name)
    if name not in in_shards and digests.of_file(path) != sha256:
      raise errors.DatasetError(
        f'{path} is not the file that was written; restore it from another copy'
      )
  for split, split_info in info.splits.items():
    record_digests: list[str] = []
    summaries: list[rlds_steps.Summary] = []

    def records(
      split: str = split,
      paths: Sequence[str] = split_info.filepaths,
      record_digests: list[str] = record_digests,
    ) -> Iterator[Mapping[str, Any]]:
      for index, path in enumerate(paths):
        for record in _read_shard(builder, split, index, Path(path)):
          record_digests.append(digests.of_record(record))
          yield record
        on_shard()

    for problem in kind.broken_promises(records(), summaries):
      raise errors.DatasetError(
        f'{builder.data_dir}: {split} record {len(record_digests) - 1}:'
        f' {problem}'
      )
    recorded = info.metadata['splits'][split]
    found = {
      'content_sha256': digests.of_split(record_digests),
      **rlds_steps.statistics(summaries),
    }
    for name, value in found.items():
      if value != recorded[name]:
        raise errors.DatasetError(
          f'{builder.data_dir}/metadata.json: {name} of {split} does not'
          ' match the records'
        )


def _read_shard(
  builder: tfds.core.DatasetBuilder, split: str, index: int, path: Path
) -> Iterator[Mapping[str, Any]]:
  """Yields the decoded records of a shard.

  Args:
    builder: builder of the dataset.
    split: split of the shard.
    index: index of the shard within the split.
    path: path of the shard.

  Raises:
    errors.DatasetError: the file is damaged or not the one that was written.
  """
  info: Any = builder.info
  lengths = info.splits[split].shard_lengths
  first, length = sum(lengths[:index]), lengths[index]
  where = f'{path.name} ({split} records {first}..{first + length - 1})'
  try:
    reader = array_record_module.ArrayRecordReader(str(path))
  except RuntimeError as error:
    raise errors.DatasetError(
      f'{builder.data_dir}: shard {where} cannot be read'
      f' ({str(error).splitlines()[0][:80]})'
    ) from error
  if reader.num_records() == 0 and length:
    raise errors.DatasetError(f'{builder.data_dir}: shard {where} is truncated')
  if reader.num_records() != length:
    raise errors.DatasetError(
      f'{builder.data_dir}: shard {where} has {reader.num_records()} records:'
      ' dataset_info.json was edited, or the shard is from another version'
    )
  intact = digests.of_file(path) == info.metadata['files_sha256'][path.name]
  for position in range(reader.num_records()):
    try:
      [record] = reader.read([position])
      yield info.features.deserialize_example_np(record)
    except (RuntimeError, ValueError, message.DecodeError) as error:
      raise errors.DatasetError(
        f'{builder.data_dir}: {split} record {first + position}, in'
        f' {path.name}, is damaged ({str(error).splitlines()[0][:80]})'
      ) from error
  if not intact:
    raise errors.DatasetError(
      f'{builder.data_dir}: shard {where} is readable but not the one that was'
      ' written (it is from another version, or a byte between records was'
      ' flipped)'
    )


def compare(
  first: tfds.core.DatasetBuilder, second: tfds.core.DatasetBuilder
) -> str | None:
  """Finds the first difference in content between two prepared datasets.

  Args:
    first: a builder returned by `prepared_dataset.find`.
    second: another one.

  Returns:
    A description of the difference; None if the content is equal.
  """
  for split in {**first.info.splits, **second.info.splits}:
    sources = []
    for builder in first, second:
      if split not in builder.info.splits:
        return f'only one of the datasets has the split {split}'
      sources.append(prepared_dataset.records(builder, split))
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
