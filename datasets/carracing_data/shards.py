"""One shard as a pure function, safe to run any number of times, anywhere.

A shard is written under a temporary name, made durable and renamed; then a
record of it (counts, digests, what the builder wants to know) appears beside it
in the same way. A shard without its record has not been written.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Any, NamedTuple
import uuid

from array_record.python import array_record_module  # pyright: ignore
from carracing_data import digests
from carracing_data import errors
import tensorflow_datasets as tfds

# Writes the records of one shard with the function it is given, in order, and
# returns what the dataset's metadata needs to know of them.
Shard = Callable[[Callable[[Mapping[str, Any]], None]], Mapping[str, Any]]


class WrittenShard(NamedTuple):
  """What is recorded of a shard.

  Attributes:
    num_examples: records in the file.
    num_bytes: of the serialized records, before compression.
    file_sha256: of the file.
    record_digests: of the decoded content of every record, in order.
    summary: what the shard's function returned.
  """

  num_examples: int
  num_bytes: int
  file_sha256: str
  record_digests: list[str]
  summary: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Job:
  """Writes one shard into the staging folder, unless it lies there already.

  Picklable, so that any process on any machine that sees the folder can run it.

  Attributes:
    name: of the file.
    shard: writes the records.
    features: of the dataset, a `tfds.features.FeaturesDict`.
    staging: the folder, which all processes share.
  """

  name: str
  shard: Shard
  features: Any
  staging: str

  @property
  def path(self) -> Path:
    return Path(self.staging, self.name)

  @property
  def _record_path(self) -> Path:
    return Path(self.staging, self.name + '.json')

  def result(self) -> WrittenShard | None:
    """Returns what is recorded of the shard; None if it is not written."""
    try:
      return WrittenShard(**json.loads(self._record_path.read_text()))
    except FileNotFoundError:
      return None

  def __call__(self) -> None:
    if self.result() is not None:
      return
    temporary = self.path.with_name(f'{self.name}.{uuid.uuid4().hex}.tmp')
    try:
      written = _write(temporary, self.shard, self.features)
      _make_durable(temporary, self.path)
      temporary.write_text(json.dumps(written._asdict()))
      _make_durable(temporary, self._record_path)
    except OSError as error:
      raise errors.DatasetError(
        f'cannot write {self.path}: {error.strerror or error}'
      ) from error
    finally:
      temporary.unlink(missing_ok=True)


def _write(path: Path, shard: Shard, features: Any) -> WrittenShard:
  serializer = tfds.core.ExampleSerializer(features.get_serialized_info())
  # A group is what one read decompresses; records are large and read singly.
  writer = array_record_module.ArrayRecordWriter(
    os.fspath(path), 'group_size:1'
  )
  num_bytes = 0
  record_digests = []

  def write(example: Mapping[str, Any]) -> None:
    nonlocal num_bytes
    encoded = features.encode_example(example)
    # Unlike `serialize_example`: map fields have no order of their own.
    record = serializer.get_tf_example(encoded).SerializeToString(
      deterministic=True
    )
    with _write_errors():
      writer.write(record)
    num_bytes += len(record)
    record_digests.append(
      digests.of_record(features.deserialize_example_np(record))
    )

  try:
    summary = shard(write)
  finally:
    with _write_errors():
      writer.close()
  return WrittenShard(
    num_examples=len(record_digests),
    num_bytes=num_bytes,
    file_sha256=digests.of_file(path),
    record_digests=record_digests,
    summary=summary,
  )


@contextlib.contextmanager
def _write_errors() -> Iterator[None]:
  """Turns what ArrayRecord raises into what Python raises, e.g. disk full."""
  try:
    yield
  except RuntimeError as error:
    raise OSError(str(error)) from error


def _make_durable(temporary: Path, path: Path) -> None:
  """Renames a file only when it is on disk, whatever happens to the machine."""
  with temporary.open('rb') as file:
    os.fsync(file.fileno())
  temporary.replace(path)
