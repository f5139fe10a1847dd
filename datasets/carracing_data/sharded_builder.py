"""Writes a TFDS dataset shard by shard: parallel, resumable, reproducible.

A shard is a pure function of the config and the shard's index, so neither the
number of workers, nor where they run, nor interruptions can change a byte.
Finished shards wait in a *staging* folder, whose name says what they depend on,
until the last one is there; only then does the dataset appear.
"""

import abc
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.metadata
import json
import os
from pathlib import Path
import shutil
import sys
import threading
from types import ModuleType
from typing import Any

from carracing_data import digests
from carracing_data import errors
from carracing_data import runners
from carracing_data import shards
from carracing_data import verification
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_builder
from tensorflow_datasets.core.utils import tqdm_utils

_MAX_SHARDS = 256
_POLL_SECONDS = 1.0
_STAGING = '.staging-'  # Prefix of the folder's name.

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


def episodes_of_shards(num_episodes: int) -> list[list[int]]:
  """Divides the episodes of a split among its shards, in order."""
  # Small datasets get one shard an episode: the finest progress.
  num_shards = min(num_episodes, _MAX_SHARDS)
  return [
    ids.tolist() for ids in np.array_split(np.arange(num_episodes), num_shards)
  ]


def _inherited() -> set[str]:
  return {field.name for field in dataclasses.fields(tfds.core.BuilderConfig)}


class ShardedBuilder(dataset_builder.FileReaderBuilder, abc.ABC):
  """A TFDS builder whose subclasses say how to write each shard.

  Files are ArrayRecord, the format with fast random access.

  Attributes:
    CODE: modules, beside the builder's own, whose source may shape the data;
      unfinished shards of other code are not continued.
  """

  CODE: Sequence[ModuleType]

  def __init__(self, *, file_format: str | None = None, **kwargs: Any):
    if file_format not in (None, tfds.core.FileFormat.ARRAY_RECORD.value):
      raise errors.DatasetError(
        f'{self.name} is written in array_record only, not in {file_format}'
      )
    super().__init__(
      file_format=tfds.core.FileFormat.ARRAY_RECORD.value, **kwargs
    )

  @abc.abstractmethod
  def _shards(self) -> Mapping[str, Sequence[shards.Shard]]:
    """Returns the shards of every split, picklable."""

  def _statistics(
    self, summaries: Sequence[Mapping[str, Any]]
  ) -> Mapping[str, Any]:
    """Turns what the shards of a split returned into metadata of the split."""
    steps = [n for summary in summaries for n in summary['episode_steps']]
    return {
      'num_episodes': len(steps),
      'num_steps': sum(steps),
      'episode_steps': steps,
    }

  @abc.abstractmethod
  def _packages(self) -> Sequence[str]:
    """Returns the packages whose version may shape the data."""

  def _identity(self) -> Mapping[str, Any]:
    """Returns everything that the user chose and that shapes the data."""
    assert self.builder_config is not None
    config = dataclasses.asdict(self.builder_config)
    return {k: v for k, v in config.items() if k not in _inherited()}

  def _num_workers(self) -> int:
    """Returns how many local processes write; 1 means this process."""
    return runners.num_cores()

  def download_and_prepare(self, **kwargs: Any) -> None:  # pyright: ignore
    """Writes the dataset, or keeps it if the same one is prepared already.

    Args:
      **kwargs: as `tfds.core.DatasetBuilder.download_and_prepare` takes.

    Raises:
      errors.DatasetError: this name is taken by a dataset with another config,
        another process is building it, or it cannot be written.
    """
    config = kwargs.get('download_config') or tfds.download.DownloadConfig()
    if self.is_prepared() and not config.download_mode.overwrite_dataset:
      prepared, wanted = self.info.metadata.get('config'), self._identity()
      if prepared != wanted:
        raise errors.DatasetError(
          f'{self.data_dir} was built with {prepared}, not with {wanted};'
          ' choose another name, or build it again with --overwrite'
        )
      # Needs no lock: shared data directories may be read-only.
      super().download_and_prepare(**kwargs)
      return
    folder = Path(self.data_path).parent
    try:
      folder.mkdir(parents=True, exist_ok=True)
      with _locked(folder):
        _remove_unfinished(folder)
        super().download_and_prepare(**kwargs)
        for staging in folder.glob(f'{_STAGING}*'):
          shutil.rmtree(staging)
    except OSError as error:
      raise errors.DatasetError(
        f'cannot write to {folder}: {error.strerror or error}'
      ) from error

  def _download_and_prepare(
    self,
    dl_manager: tfds.download.DownloadManager,
    download_config: tfds.download.DownloadConfig | None = None,
  ) -> None:
    del dl_manager
    staging = self._staging()
    jobs = {
      split: [
        shards.Job(
          name=f'{split}-{index:05d}',
          shard=shard,
          features=self.info.features,
          staging=os.fspath(staging),
        )
        for index, shard in enumerate(split_shards)
      ]
      for split, split_shards in self._shards().items()
    }
    todo = [job for split in jobs.values() for job in split]
    try:
      with _progress(self.name, staging, len(todo)):
        if download_config and (
          download_config.beam_runner or download_config.beam_options
        ):
          runners.run_with_beam(todo, download_config)
        else:
          unwritten = [job for job in todo if job.result() is None]
          runners.run_locally(unwritten, self._num_workers())
    finally:
      _remove_temporary(staging)
    self._collect(jobs)

  def _staging(self) -> Path:
    """Returns the folder for shards that depend on the very same things."""
    depends_on = json.dumps(
      {
        'version': str(self.version),
        'config': self._identity(),
        'packages': self._versions(),
        'code': digests.of_code(
          [shards, digests, sys.modules[type(self).__module__], *self.CODE]
        ),
      },
      sort_keys=True,
    )
    fingerprint = hashlib.sha256(depends_on.encode()).hexdigest()[:16]
    parent = Path(self.data_path).parent
    staging = parent / f'{_STAGING}{fingerprint}'
    for other in parent.glob(f'{_STAGING}*'):
      if other != staging:
        shutil.rmtree(other)
    staging.mkdir(exist_ok=True)
    _remove_temporary(staging)
    return staging

  def _versions(self) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in self._packages()}

  def _collect(self, jobs: Mapping[str, Sequence[shards.Job]]) -> None:
    """Takes the staged shards into the dataset and sets its metadata."""
    split_infos, split_metadata, files = [], {}, {}
    for split, split_jobs in jobs.items():
      template = self._get_filename_template(split)
      written = []
      for index, job in enumerate(split_jobs):
        result = job.result()
        if result is None:
          raise errors.DatasetError(
            f'{job.path} was not written though its job ended; do all workers'
            ' see the same file system?'
          )
        path = Path(
          template.sharded_filepath(
            shard_index=index, num_shards=len(split_jobs)
          )
        )
        # Linked, not moved: an interruption here must not undo a shard.
        _link_or_copy(job.path, path)
        files[path.name] = result.file_sha256
        written.append(result)
      split_infos.append(
        tfds.core.SplitInfo(
          name=split,
          shard_lengths=[shard.num_examples for shard in written],
          num_bytes=sum(shard.num_bytes for shard in written),
          filename_template=template,
        )
      )
      split_metadata[split] = {
        'content_sha256': digests.of_split(
          digest for shard in written for digest in shard.record_digests
        ),
        **self._statistics([shard.summary for shard in written]),
      }
    self.info.set_splits(tfds.core.SplitDict(split_infos))
    self.info.metadata.update(
      verification.sealed(
        {
          'config': self._identity(),
          'packages': self._versions(),
          'splits': split_metadata,
          'files_sha256': files,
        }
      )
    )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
  """Keeps other processes from building the same dataset meanwhile."""
  with (folder / '.lock').open('w') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise errors.DatasetError(
        f'another process is building in {folder}; wait for it or stop it'
      ) from None
    yield


def _remove_temporary(staging: Path) -> None:
  for path in staging.glob('*.tmp'):
    path.unlink(missing_ok=True)


def _remove_unfinished(folder: Path) -> None:
  """Removes what TFDS leaves behind if it is killed."""
  for path in folder.glob('incomplete.*'):
    shutil.rmtree(path)


@contextlib.contextmanager
def _progress(name: str, staging: Path, total: int) -> Iterator[None]:
  """Shows how many shards lie in the staging folder, whoever writes them."""
  done = threading.Event()

  found = len(list(staging.glob('*.json')))

  def watch(progress: Any) -> None:
    shown, finished = found, False
    while not finished:
      finished = done.wait(_POLL_SECONDS)
      now = len(list(staging.glob('*.json')))
      progress.update(now - shown)
      shown = now

  with tqdm_utils.tqdm(
    total=total, initial=found, unit=' shards', desc=name
  ) as progress:
    watcher = threading.Thread(target=watch, args=(progress,), daemon=True)
    watcher.start()
    try:
      yield
    finally:
      done.set()
      watcher.join()


def _link_or_copy(source: Path, target: Path) -> None:
  try:
    os.link(source, target)
  except OSError:  # This file system has no hard links.
    shutil.copyfile(source, target)
