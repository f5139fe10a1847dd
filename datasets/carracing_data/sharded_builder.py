"""Writes a TFDS dataset shard by shard: parallel, resumable, reproducible.

A shard is a pure function of the config and the shard's index, so neither the
number of workers, nor their machines, nor interruptions can change a byte.
Finished shards are kept in a *staging* folder, named by a fingerprint of their
dependencies. The dataset appears only when all shards are finished.
"""

import abc
from collections.abc import Mapping, Sequence
import functools
import importlib.metadata
import os
from pathlib import Path
import re
import shlex
import shutil
import sys
from types import ModuleType
from typing import Any, ClassVar

from absl import logging
from carracing_data import beam
from carracing_data import digests
from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
from carracing_data import metadata as metadata_lib
from carracing_data import prepared_dataset
from carracing_data import processes
from carracing_data import progress
from carracing_data import shards
from carracing_data import tfds_command
from etils import epath
import pydantic
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_builder
from tensorflow_datasets.core import utils

_BEAM_POLL_SECONDS = 30.0
# Prefixes of a dataset that is not at its place yet, and of the one before.
_NEW, _OLD = '.building-', '.replaced-'

tfds_command.adapt()


class Config(tfds.core.BuilderConfig):
  """A builder config whose keys and values are validated.

  The annotated attributes of a subclass are its keys, with their defaults. Of
  the keys that TFDS defines, only the name and the description have an effect.

  Attributes:
    SCHEMA: schema of the keys.

  Raises:
    errors.DatasetError: a key or a value is invalid; the message names it.
  """

  SCHEMA: ClassVar[type[json_documents.Document]]

  def __init__(
    self, name: str = '', description: str | None = None, **values: Any
  ):
    keys = sorted(type(self).__annotations__)
    if unknown := sorted({*values} - {*keys}):
      raise errors.DatasetError(
        f'unknown config key {", ".join(map(repr, unknown))}; the keys are'
        f' {", ".join(["name", *keys])}'
      )
    vars(self).update(values)
    values = {key: getattr(self, key) for key in keys}
    schema = pydantic.create_model(
      type(self).__name__,
      __base__=self.SCHEMA,
      name=json_documents.Name,
      description=str | None,
    )
    try:
      schema.model_validate(
        {'name': name, 'description': description, **values}
      )
    except pydantic.ValidationError as error:
      raise errors.DatasetError(
        f'invalid config: {json_documents.explain(error)}'
      ) from None
    super().__init__(name=name, description=description)


class Info(tfds.core.DatasetInfo):
  """Dataset info that reads only complete datasets and has a short `repr`.

  `tfds build` prints it at the end.
  """

  def read_from_directory(self, dataset_info_dir: epath.PathLike) -> None:
    if _problem(Path(dataset_info_dir)) is None:
      try:
        super().read_from_directory(dataset_info_dir)
      except Exception as error:  # What TFDS raises depends on the damage.
        raise errors.DatasetError(
          f'{dataset_info_dir}: {metadata_lib.INFO_FILE} is damaged; restore it'
          ' from another copy, or move the folder away and build it again'
        ) from error

  def __repr__(self) -> str:
    try:
      built = prepared_dataset.find(str(self.data_dir))
    except errors.DatasetError:
      if tfds_command.is_running():  # At the end of a build.
        raise
      return f'{self.full_name} is not built.'
    digest = built.citation.rpartition('@')[2]
    folder = f'{self.data_dir}@{digest}'
    return '\n'.join(
      [
        f'{self.full_name} is in {self.data_dir} ({self.dataset_size}).',
        *(
          f'{name}: {split.num_episodes:,} episodes, {split.num_steps:,} steps'
          for name, split in built.splits.items()
        ),
        f'Cite it as: {built.citation}',
        'Check it, or a copy, with: python -m tools.verify'
        f' --dataset={shlex.quote(str(self.data_dir))} --expect={digest}',
        f'Read it with: {self.name}.loader.episodes({folder!r})',
      ]
    )


class ShardedBuilder(dataset_builder.FileReaderBuilder, abc.ABC):
  """A TFDS builder whose subclasses define how to write each shard.

  Files are in ArrayRecord, the format with fast random access.

  Attributes:
    KIND: what readers require of the dataset.
    CODE: modules, besides the builder's own, whose source may affect the data;
      a build does not reuse staged shards of other code.
  """

  KIND: metadata_lib.Kind
  CODE: Sequence[ModuleType]

  def __init__(
    self,
    *,
    file_format: str | None = None,
    num_workers: int | None = None,
    **kwargs: Any,
  ):
    """Opens the dataset, or prepares to write it.

    Args:
      file_format: `array_record` if given.
      num_workers: local processes that write; 1 means this process, None one
        for each core.
      **kwargs: as `tfds.core.DatasetBuilder` takes.

    Raises:
      errors.DatasetError: another file format is wanted.
    """
    self._num_workers = num_workers or processes.num_cores()
    if file_format not in (None, tfds.core.FileFormat.ARRAY_RECORD.value):
      raise errors.DatasetError(
        f'{self.name} is written in array_record only, not in {file_format}'
      )
    given = kwargs.get('data_dir')
    data_dir = prepared_dataset.data_directory(given)
    if given is not None:
      kwargs['data_dir'] = os.fspath(data_dir)
    super().__init__(
      file_format=tfds.core.FileFormat.ARRAY_RECORD.value, **kwargs
    )

  def _create_builder_config(
    self, builder_config: str | tfds.core.BuilderConfig | None, version: Any
  ) -> tfds.core.BuilderConfig | None:
    known = {config.name: config for config in self.BUILDER_CONFIGS}
    if isinstance(builder_config, str):
      if builder_config not in known:
        raise errors.DatasetError(
          f'there is no config {builder_config!r}, only {", ".join(known)};'
          """ give any other as JSON: --config '{"name": ..., ...}' or"""
          ' --config "$(cat FILE)"'
        )
    elif builder_config is not None:
      name = builder_config.name
      if known.get(name, builder_config) is not builder_config:
        raise errors.DatasetError(
          f'the name {name!r} is taken by a config of {self.name}; choose'
          ' another "name" in --config'
        )
    return super()._create_builder_config(builder_config, version)

  @abc.abstractmethod
  def _shards(self) -> Mapping[str, Sequence[shards.Shard]]:
    """Returns the picklable shards of each split."""

  @abc.abstractmethod
  def _packages(self) -> Sequence[str]:
    """Returns the packages whose versions may affect the data."""

  def _platform(self) -> Mapping[str, str]:
    """Returns the device and the settings that may affect the data, by name."""
    return {}

  def _attachments(self) -> Mapping[str, bytes]:
    """Returns the content of other files of the dataset, by name."""
    return {}

  def _attachment_path(self, name: str) -> Path:
    """Returns where shards find a copy of an attachment during the build."""
    return Path(self.data_path).parent / f'.{name}'

  @abc.abstractmethod
  def _identity(self) -> Mapping[str, Any]:
    """Returns all choices of the user that affect the data."""

  def dataset_info_from_configs(self, **kwargs: Any) -> tfds.core.DatasetInfo:
    metadata = self.get_metadata()
    return Info(
      builder=self,
      description=metadata.description,
      citation=metadata.citation,
      **kwargs,
    )

  def download_and_prepare(self, **kwargs: Any) -> None:  # pyright: ignore
    """Writes the dataset, unless the same one is already prepared.

    Args:
      **kwargs: arguments of `tfds.core.DatasetBuilder.download_and_prepare`.

    Raises:
      errors.DatasetError: the name is taken by a dataset with another config,
        or a TFDS option is not supported.
      errors.UserError: the dataset cannot be written, or another process is
        building it.
    """
    config = kwargs.get('download_config') or tfds.download.DownloadConfig()
    _check_options(config)
    overwrite = config.download_mode.overwrite_dataset
    self._identity()  # Fails on missing inputs before anything is written.
    # Without a lock, because shared data directories may be read-only.
    if not overwrite and self._is_built():
      return
    self._build(overwrite, **kwargs)

  def _build(self, overwrite: bool, **kwargs: Any) -> None:
    folder = files.claim_folder(Path(self.data_path).parent)
    with files.locked(folder):
      place = Path(self.data_path)
      new, old = (folder / f'{x}{self.version}' for x in (_NEW, _OLD))
      files.refuse_link(place)
      if old.exists() and not place.exists():
        old.rename(place)  # Killed between the renames below.
      if not overwrite and self._is_built():  # By another in the meantime.
        return
      self._move_partial_aside()
      # Of a build that was killed, as TFDS and the lines below name it.
      ours = f'{re.escape(_NEW)}|{re.escape(_OLD)}'
      left = rf'({ours}|incomplete\.[A-Z0-9]{{6}}_({ours})?)'
      version = re.escape(str(self.version))
      for path in files.own_folders(folder, left + version):
        shutil.rmtree(path)
      try:
        # Beside an old dataset, which stays until the new one is checked.
        with utils.temporary_assignment(self, '_data_dir', os.fspath(new)):
          super().download_and_prepare(**kwargs)
          metadata_lib.check_folder(new, [self.KIND])
        if place.exists():
          place.rename(old)
        new.rename(place)
        files.sync(folder)
        self.info.update_data_dir(self.data_dir)
        shutil.rmtree(old, ignore_errors=True)
      finally:
        for name in self._attachments():
          self._attachment_path(name).unlink(missing_ok=True)
      shards.remove_staging(folder)

  def _is_built(self) -> bool:
    """Returns whether the dataset is complete.

    Raises:
      errors.DatasetError: it is complete, but has another name or config.
    """
    try:
      built, _ = metadata_lib.check_folder(Path(self.data_path), [self.KIND])
    except errors.DatasetError:
      return False
    name = f'{self.name}/{self.builder_config.name}:{self.version}'
    if (built.name, built.config) != (name, self._identity()):
      raise errors.DatasetError(
        f'{self.data_dir} was built with {built.config} as {built.name}, not'
        f' with {self._identity()} as {name}; choose another name, or build it'
        ' again with --overwrite'
      )
    self.info.read_from_directory(self.data_path)
    logging.info('%s already exists.', self.data_dir)
    return True

  def _move_partial_aside(self) -> None:
    """Moves an incomplete dataset out of the way."""
    folder = Path(self.data_path)
    if not folder.exists() or not (problem := _problem(folder, self.KIND)):
      return
    if not any(folder.iterdir()):
      folder.rmdir()
      return
    aside = files.move_aside(
      folder, folder.with_name(f'incomplete_{folder.name}')
    )
    logging.warning(
      '%s; building it again. The old folder was moved to %s.', problem, aside
    )

  def _download_and_prepare(
    self,
    dl_manager: tfds.download.DownloadManager,
    download_config: tfds.download.DownloadConfig | None = None,
  ) -> None:
    del dl_manager
    jobs = self._jobs()
    todo = [job for split in jobs.values() for job in split]
    folder = Path(todo[0].staging)
    try:
      if download_config and (
        download_config.beam_runner or download_config.beam_options
      ):
        # Beam does not report finished jobs; listing a large folder is slow.
        with progress.watching(
          self.name,
          'shards',
          len(todo),
          lambda: shards.num_finished(folder),
          _BEAM_POLL_SECONDS,
        ):
          beam.run(todo, download_config)
      else:
        unwritten = [job for job in todo if job.result() is None]
        with progress.Progress(self.name, 'shards', len(todo)) as shown:
          shown.start(len(todo) - len(unwritten))
          if len(unwritten) < len(todo):
            shown.show()  # An interrupted build goes on.
          processes.run_locally(unwritten, self._num_workers, shown.count_one)
    finally:
      files.remove_temporary(folder)
    self._collect(jobs)

  def _jobs(self) -> dict[str, list[shards.Job]]:
    """Enters the staging folder; returns the jobs that fill it, by split."""
    for name, content in self._attachments().items():
      path = self._attachment_path(name)
      files.replace(path, functools.partial(Path.write_bytes, data=content))
    split_shards = self._shards()
    num_shards = {split: len(x) for split, x in split_shards.items()}
    folder = shards.enter_staging(
      Path(self.data_path).parent, self._depends_on(num_shards)
    )
    return {
      split: [
        shards.Job(
          name=f'{split}-{index:05d}',
          shard=shard,
          features=self.info.features,
          staging=os.fspath(folder),
        )
        for index, shard in enumerate(of_split)
      ]
      for split, of_split in split_shards.items()
    }

  def _depends_on(self, num_shards: Mapping[str, int]) -> dict[str, Any]:
    """Returns everything that may affect the shards."""
    # This module determines the order of shards, `shards` their episodes.
    code = [prepared_dataset, digests, shards, sys.modules[__name__]]
    return {
      'version': str(self.version),
      'config': self._identity(),
      'packages': self._versions(),
      'platform': self._platform(),
      'num_shards': num_shards,
      'code': digests.of_code(
        [*code, sys.modules[type(self).__module__], *self.CODE]
      ),
    }

  def _versions(self) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in self._packages()}

  def _log_download_bytes(self) -> None:
    """Logs the start of the build instead of a download."""
    logging.info('Building %s in %s.', self.info.full_name, self.data_dir_root)

  def _log_download_done(self) -> None:
    """Logs nothing, because `tfds build` prints `repr(info)` next."""

  def _collect(self, jobs: Mapping[str, Sequence[shards.Job]]) -> None:
    """Links the staged shards into the dataset and sets its metadata."""
    split_infos, split_metadata, sha256 = [], {}, {}
    for split, split_jobs in jobs.items():
      template = self._get_filename_template(split)
      paths = template.sharded_filepaths(num_shards=len(split_jobs))
      collected = shards.collect(split_jobs, [Path(path) for path in paths])
      split_metadata[split] = collected.metadata
      sha256 |= collected.files_sha256
      split_infos.append(
        tfds.core.SplitInfo(
          name=split,
          shard_lengths=collected.metadata['shard_lengths'],
          num_bytes=collected.metadata['num_bytes'],
          filename_template=template,
        )
      )
    for name, content in self._attachments().items():
      path = Path(self.data_path, name)
      path.write_bytes(content)
      files.sync(path)
      sha256[name] = digests.of_bytes(content)
    self.info.set_splits(tfds.core.SplitDict(split_infos))
    # Now: loaded later, the metadata of before would replace the new ones.
    self.info.metadata.keys()
    self.info.metadata.update(
      json_documents.sealed(
        {
          'name': f'{self.name}/{self.builder_config.name}:{self.version}',
          'config': self._identity(),
          'packages': self._versions(),
          # Left out if nothing does, as in earlier datasets.
          **({'platform': platform} if (platform := self._platform()) else {}),
          'splits': split_metadata,
          'files_sha256': sha256,
        },
        metadata_lib.SEAL,
      )
    )


def _check_options(config: tfds.download.DownloadConfig) -> None:
  """Raises DatasetError if a TFDS option would have no effect."""
  usual = tfds.download.DownloadConfig()
  for option in 'max_examples_per_split', 'num_shards', 'max_shard_size':
    if getattr(config, option) != getattr(usual, option):
      raise errors.DatasetError(
        f'{option} is not supported: shards depend on the config alone, so that'
        ' all builds are equal; set num_episodes in --config'
      )


def _problem(folder: Path, *kinds: metadata_lib.Kind) -> str | None:
  """Returns why a folder is not a complete dataset, or None if it is one."""
  try:
    metadata_lib.check_folder(folder, kinds)
  except errors.DatasetError as error:
    return str(error)
  return None
