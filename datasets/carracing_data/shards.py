"""The shards of a dataset: written into a staging folder, then linked.

A job writes one shard: a pure function, safe to repeat and to run on any
machine. A shard is written under a temporary name, synced to disk and renamed.
Then its record (counts, digests and episode summaries) is written next to it in
the same way. A shard without a record counts as not written.

Finished shards stay in the *staging* folder until all are written. Its name is
a fingerprint of everything its shards depend on, so a build never continues one
that other code or another config started.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import itertools
import json
import os
from pathlib import Path
import shutil
from typing import Any, NamedTuple
import uuid

from absl import logging
from array_record.python import array_record_module  # pyright: ignore
from carracing_data import digests
from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
from carracing_data import rlds_steps
import tensorflow_datasets as tfds

# Writes the records of one shard, in order, with the given function. Returns
# summaries of their episodes, in order.
Shard = Callable[
  [Callable[[Mapping[str, Any]], None]], list[rlds_steps.Summary]
]

# Shards of datasets that are small enough for it.
_USUAL_SHARDS = 256
_MAX_BYTES = 2**30  # Of a shard.
RECORD = '.record.json'  # Suffix of the record of a shard.
_STAGING = '.staging-'
_STAGING_FOLDER = rf'\{_STAGING}[0-9a-f]{{16}}'
_DEPENDS_ON = 'depends_on.json'


def episodes_of_shards(num_episodes: int, episode_bytes: int) -> list[range]:
  """Divides the episodes of a split among its shards, in order.

  Small datasets get one shard per episode, for the finest progress; a shard has
  about 1 GiB at most, or one episode. The digest of a split's content is
  independent of this.

  Args:
    num_episodes: number of episodes of the split, at least 1.
    episode_bytes: largest size of an episode on disk, about.
  """
  per_shard = max(1, _MAX_BYTES // episode_bytes)
  num_shards = max(
    min(num_episodes, _USUAL_SHARDS), -(-num_episodes // per_shard)
  )
  size, surplus = divmod(num_episodes, num_shards)
  # The first ones take the surplus.
  ends = [size * i + min(i, surplus) for i in range(num_shards + 1)]
  return [range(*pair) for pair in itertools.pairwise(ends)]


class WrittenShard(json_documents.Document):
  """The record of a written shard.

  Attributes:
    num_examples: number of records in the file.
    num_bytes: size of the serialized records, before compression.
    file_sha256: digest of the file.
    record_digests: digest of the decoded content of each record, in order.
    episodes: summaries of the episodes, in order.
    name: staging folder and file, so that no other's record is believed.
    sha256: digest of all of the above, see `json_documents.sealed`.
  """

  num_examples: int
  num_bytes: int
  file_sha256: json_documents.Sha256
  record_digests: list[json_documents.Sha256]
  episodes: list[rlds_steps.Summary]
  name: str = ''
  sha256: str = ''


@dataclasses.dataclass(frozen=True)
class Job:
  """Writes one shard into the staging folder, unless it is already there.

  Picklable, so that any process on any machine that sees the folder can run it.

  Attributes:
    name: name of the file.
    shard: function that writes the records.
    features: features of the dataset, a `tfds.features.FeaturesDict`.
    staging: staging folder, shared by all processes.
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
    return Path(self.staging, self.name + RECORD)

  def sealed(self, written: WrittenShard) -> dict[str, Any]:
    """Returns the content of the record of this shard."""
    name = '/'.join(self.path.parts[-2:])
    return json_documents.sealed(
      written.model_dump() | {'name': name}, 'sha256'
    )

  def result(self) -> WrittenShard | None:
    """Returns the record of the shard; None if it is not written."""
    try:
      written = json_documents.read(self._record_path, WrittenShard)
    except (FileNotFoundError, errors.DocumentError):
      return None
    intact = written.model_dump() == self.sealed(written)
    # The shard itself may have been deleted by hand.
    return written if intact and self.path.exists() else None

  def checked_result(self) -> WrittenShard:
    """Returns the record of the shard after checking the file.

    Raises:
      errors.DatasetError: the shard is not written, or differs from its record.
    """
    written = self.result()
    if written is None:
      raise errors.DatasetError(
        f'{self.path} was not written although its job ended; do all workers'
        ' see the same file system?'
      )
    if digests.of_file(self.path) != written.file_sha256:
      self._record_path.unlink()
      raise errors.DatasetError(
        f'{self.path} was damaged after it was written; run the same command'
        ' again to rewrite it'
      )
    return written

  def __call__(self) -> None:
    if self.result() is not None:
      return
    temporary = self.path.with_name(f'.{self.name}.{uuid.uuid4().hex}.tmp')
    try:
      written = _write(temporary, self.shard, self.features)
      with files.write_errors(self.path):
        files.make_durable(temporary, self.path)
      json_documents.write(self._record_path, self.sealed(written))
    finally:
      temporary.unlink(missing_ok=True)


def _write(path: Path, shard: Shard, features: Any) -> WrittenShard:
  serializer = tfds.core.ExampleSerializer(features.get_serialized_info())
  # A read decompresses a whole group; records are large and read one by one.
  writer = array_record_module.ArrayRecordWriter(
    os.fspath(path), 'group_size:1'
  )
  num_bytes = 0
  record_digests = []

  def write(example: Mapping[str, Any]) -> None:
    nonlocal num_bytes
    encoded = features.encode_example(example)
    # `serialize_example` is not deterministic: map fields are unordered.
    record = serializer.get_tf_example(encoded).SerializeToString(
      deterministic=True
    )
    with _name_unwritable(path):
      writer.write(record)
    num_bytes += len(record)
    record_digests.append(
      digests.of_record(features.deserialize_example_np(record))
    )

  try:
    episodes = shard(write)
  finally:
    with _name_unwritable(path):
      writer.close()
  return WrittenShard(
    num_examples=len(record_digests),
    num_bytes=num_bytes,
    file_sha256=digests.of_file(path),
    record_digests=record_digests,
    episodes=episodes,
  )


@contextlib.contextmanager
def _name_unwritable(path: Path) -> Iterator[None]:
  """Names the file if ArrayRecord cannot write it, e.g. on a full disk."""
  try:
    yield
  except RuntimeError as error:
    raise errors.UserError(
      f'cannot write {path}: {str(error).splitlines()[0]}'
    ) from error


def enter_staging(parent: Path, depends_on: Mapping[str, Any]) -> Path:
  """Creates the staging folder for shards with the given dependencies.

  Folders of other builds are kept until this one is complete.

  Args:
    parent: parent of the staging folder; must exist.
    depends_on: everything that may affect the shards; JSON.

  Returns:
    The staging folder, without temporary files.
  """
  fingerprint = json_documents.digest(depends_on)[:16]
  folder = parent / f'{_STAGING}{fingerprint}'
  files.refuse_link(folder)
  folder.mkdir(exist_ok=True)
  json_documents.write(folder / _DEPENDS_ON, depends_on)
  for other in files.own_folders(parent, _STAGING_FOLDER):
    if other != folder and (num_left := num_finished(other)):
      _warn_of_other(other, num_left, depends_on)
  files.remove_temporary(folder)
  return folder


def remove_staging(parent: Path) -> None:
  """Removes the staging folders of all builds."""
  for folder in files.own_folders(parent, _STAGING_FOLDER):
    shutil.rmtree(folder)


def num_finished(folder: Path) -> int:
  """Returns the number of finished shards in a staging folder."""
  return len(list(folder.glob(f'*{RECORD}')))


def _warn_of_other(
  other: Path, num_left: int, depends_on: Mapping[str, Any]
) -> None:
  """Warns of shards that an interrupted build of the same name has left."""
  try:
    found = json.loads(files.read_bytes(other / _DEPENDS_ON))
  except (OSError, ValueError):
    found = {}
  differing = [x for x in depends_on if found.get(x) != depends_on[x]]
  logging.warning(
    'An earlier build left %d finished shards in %s. They cannot be reused:'
    ' this build differs in %s. They will be deleted when it is complete.',
    num_left,
    other,
    ', '.join(differing),
  )


class Collected(NamedTuple):
  """A split whose shards are linked into a dataset.

  Attributes:
    metadata: statistics and digest, see `metadata.SplitMetadata`.
    files_sha256: digest of each shard, by file name.
  """

  metadata: dict[str, Any]
  files_sha256: dict[str, str]


def collect(jobs: Sequence[Job], paths: Sequence[Path]) -> Collected:
  """Links the shards of a split into a dataset.

  Only one shard's record is in memory at a time: together they may have
  gigabytes.

  Args:
    jobs: jobs that wrote the shards, in order.
    paths: paths of the shards in the dataset.

  Raises:
    errors.DatasetError: a shard is not written, or was damaged since.
  """
  content = digests.SplitDigest()
  totals = rlds_steps.Totals()
  sha256, lengths, num_bytes = {}, [], 0
  for job, path in zip(jobs, paths, strict=True):
    written = job.checked_result()
    # Linked, not moved: an interruption here must not lose a staged shard.
    try:
      os.link(job.path, path)
    except OSError:  # This file system has no hard links.
      shutil.copyfile(job.path, path)
      files.sync(path)
    sha256[path.name] = written.file_sha256
    lengths.append(written.num_examples)
    num_bytes += written.num_bytes
    content.update(written.record_digests)
    for episode in written.episodes:
      totals.add(episode)
  metadata = {
    'content_sha256': content.hexdigest(),
    'num_bytes': num_bytes,
    'shard_lengths': lengths,
    **totals.statistics(),
  }
  return Collected(metadata, sha256)
