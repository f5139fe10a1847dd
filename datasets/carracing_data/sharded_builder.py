"""Writes a TFDS dataset shard by shard, on all cores.

A shard is a pure function of the config and the shard's index, so neither the
number of workers nor the order in which they finish can change the data.
"""

import abc
from array_record.python import array_record_module  # pyright: ignore
from carracing_data import errors
from collections.abc import Callable, Iterator, Mapping, Sequence
import concurrent.futures
import contextlib
import dataclasses
import functools
import multiprocessing
import os
import signal
import sys
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_builder
from tensorflow_datasets.core.utils import tqdm_utils
import threading
import types
from typing import Any, NamedTuple

# Writes the records of one shard with the function it is given, in order, and
# returns what the dataset's metadata needs to know of them.
Shard = Callable[[Callable[[Mapping[str, Any]], None]], Mapping[str, Any]]

errors.show_without_traceback(errors.DatasetError)


@dataclasses.dataclass(eq=False)
class Config(tfds.core.BuilderConfig):
  """A builder config that names its keys when it is given an unknown one."""

  def __new__(cls, *unused_args: Any, **kwargs: Any):
    known = {field.name for field in dataclasses.fields(cls)}
    if unknown := sorted(set(kwargs) - known):
      keys = ['name', *sorted(known - _inherited())]
      raise errors.DatasetError(
        f'unknown config key {", ".join(map(repr, unknown))}; the keys are'
        f' {", ".join(keys)}'
      )
    return super().__new__(cls)


def _inherited() -> set[str]:
  return {field.name for field in dataclasses.fields(tfds.core.BuilderConfig)}


class ShardedBuilder(dataset_builder.FileReaderBuilder, abc.ABC):
  """A TFDS builder whose subclasses say how to write each shard.

  Files are ArrayRecord, the format with fast random access.
  """

  def __init__(self, *, file_format: str | None = None, **kwargs: Any):
    if file_format not in (None, tfds.core.FileFormat.ARRAY_RECORD.value):
      raise errors.DatasetError(
        f'{self.name} is written in array_record only, not in {file_format}'
      )
    super().__init__(
      file_format=tfds.core.FileFormat.ARRAY_RECORD.value, **kwargs
    )

  def _identity(self) -> Mapping[str, Any]:
    """Returns everything that shapes the data, for the metadata."""
    assert self.builder_config is not None
    config = dataclasses.asdict(self.builder_config)
    return {k: v for k, v in config.items() if k not in _inherited()}

  @abc.abstractmethod
  def _shards(self) -> Mapping[str, Sequence[Shard]]:
    """Returns the shards of every split; picklable if `_num_workers` > 1."""

  @abc.abstractmethod
  def _metadata(
    self, summaries: Mapping[str, Sequence[Mapping[str, Any]]]
  ) -> Mapping[str, Any]:
    """Turns what the shards of every split returned into metadata."""

  def _num_workers(self) -> int:
    """Returns how many processes write; 1 means this process."""
    if hasattr(os, 'sched_getaffinity'):
      return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

  def download_and_prepare(self, **kwargs: Any) -> None:  # pyright: ignore
    """Writes the dataset, or keeps it if the same one is prepared already.

    Args:
      **kwargs: as `tfds.core.DatasetBuilder.download_and_prepare` takes.

    Raises:
      errors.DatasetError: this name is taken by a dataset with another config.
    """
    config = kwargs.get('download_config') or tfds.download.DownloadConfig()
    if self.is_prepared() and not config.download_mode.overwrite_dataset:
      prepared, wanted = self.info.metadata.get('config'), self._identity()
      if prepared != wanted:
        raise errors.DatasetError(
          f'{self.data_dir} was built with {prepared}, not with {wanted};'
          ' choose another name, or build it again with --overwrite'
        )
    super().download_and_prepare(**kwargs)

  def _download_and_prepare(
    self,
    dl_manager: tfds.download.DownloadManager,
    download_config: tfds.download.DownloadConfig | None = None,
  ) -> None:
    del dl_manager, download_config
    jobs, templates = {}, {}
    for split, shards in self._shards().items():
      templates[split] = self._get_filename_template(split)
      for index, shard in enumerate(shards):
        path = templates[split].sharded_filepath(
          shard_index=index, num_shards=len(shards)
        )
        jobs[split, index] = functools.partial(
          _write_shard, shard, os.fspath(path), self.info.features
        )
    results = {}
    progress = tqdm_utils.tqdm(total=len(jobs), unit=' shards', desc=self.name)
    with progress:
      for key, result in _run(jobs, self._num_workers()):
        results[key] = result
        progress.update()

    by_split = {
      split: [results[s, i] for s, i in sorted(results) if s == split]
      for split in templates
    }
    self.info.set_splits(
      tfds.core.SplitDict(
        [
          tfds.core.SplitInfo(
            name=split,
            shard_lengths=[shard.num_examples for shard in shards],
            num_bytes=sum(shard.num_bytes for shard in shards),
            filename_template=templates[split],
          )
          for split, shards in by_split.items()
        ]
      )
    )
    self.info.metadata.update(
      config=self._identity(),
      **self._metadata(
        {
          split: [shard.summary for shard in shards]
          for split, shards in by_split.items()
        }
      ),
    )


class _WrittenShard(NamedTuple):
  num_examples: int
  num_bytes: int  # Serialized, before ArrayRecord's compression.
  summary: Mapping[str, Any]


def _write_shard(shard: Shard, path: str, features: Any) -> _WrittenShard:
  """Writes one file; a pure function that any process can run."""
  serializer = tfds.core.ExampleSerializer(features.get_serialized_info())
  # A group is what one read decompresses; records are large and read singly.
  writer = array_record_module.ArrayRecordWriter(path, 'group_size:1')
  sizes = []

  def write(example: Mapping[str, Any]) -> None:
    proto = serializer.get_tf_example(features.encode_example(example))
    # Unlike `serialize_example`: map fields have no order of their own.
    record = proto.SerializeToString(deterministic=True)
    writer.write(record)
    sizes.append(len(record))

  try:
    summary = shard(write)
  finally:
    writer.close()
  return _WrittenShard(len(sizes), sum(sizes), summary)


def _run(
  jobs: Mapping[Any, Callable[[], _WrittenShard]], num_workers: int
) -> Iterator[tuple[Any, _WrittenShard]]:
  """Runs jobs on several processes; yields results as they come."""
  if num_workers == 1:
    for key, job in jobs.items():
      yield key, job()
    return
  executor = concurrent.futures.ProcessPoolExecutor(
    min(num_workers, len(jobs)),
    mp_context=multiprocessing.get_context('spawn'),
    initializer=_die_with_parent,
  )
  try:
    with _bare_main():
      futures = {executor.submit(job): key for key, job in jobs.items()}
    for future in concurrent.futures.as_completed(futures):
      yield futures[future], future.result()
  except BaseException:
    for worker in multiprocessing.active_children():
      worker.terminate()
    raise
  finally:
    executor.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _bare_main() -> Iterator[None]:
  """Spares spawned workers from importing `__main__`, as they else would.

  It is the `tfds` command, which imports TensorFlow and Beam: 5 s a worker.
  """
  main = sys.modules['__main__']
  sys.modules['__main__'] = types.ModuleType('__main__')
  try:
    yield
  finally:
    sys.modules['__main__'] = main


def _die_with_parent() -> None:
  """Ends this worker silently at Ctrl-C and when its parent is gone."""
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  parent = multiprocessing.parent_process()

  def wait() -> None:
    if parent is not None:
      parent.join()
      os._exit(1)

  threading.Thread(target=wait, daemon=True).start()
