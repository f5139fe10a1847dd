"""Saves and restores checkpoints of a run: its state and its data iterator.

This is the only module that uses Orbax.
"""

from collections.abc import Callable, Mapping
import concurrent.futures
import contextlib
import os
from pathlib import Path
import re
import sys
from typing import Annotated, Any

from absl import logging
from carracing_data import digests
from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
import jax
from orbax.checkpoint import v1 as ocp
import pydantic
from trainers import devices
from trainers import run_documents
from trainers import run_folder

_RECORD = 'record.json'  # In each checkpoint's folder; written last.
_SHOWN = 3  # Maximum number of differences in an error message.


# Path of a file in a folder.
_Inside = Annotated[
  str,
  pydantic.StringConstraints(pattern=r'^\.?\w[\w.-]*(/\.?\w[\w.-]*)*$'),
]


class _File(json_documents.Document):
  num_bytes: int
  sha256: json_documents.Sha256


class _Record(json_documents.Document):
  """`record.json` of a checkpoint.

  Attributes:
    processes: number of processes that divide the data.
    structure: dtype and shape of every array, by its path in the items.
    files: size and digest of every file, by path in the checkpoint's folder.
    step, config, sources: those of the run; None: by earlier code.
  """

  processes: int
  structure: dict[str, str]
  files: Annotated[dict[_Inside, _File], pydantic.Field(min_length=1)]
  step: int | None = None
  config: run_documents.Config | None = None
  sources: dict[str, run_documents.Source] = {}


class Checkpoints:
  """Saves checkpoints in the background and keeps the newest two.

  Once a checkpoint is on disk, a record with the digests of its files is added.
  A checkpoint without a record is unfinished; one whose files do not match its
  record is damaged. Any other problem raises an error and changes no files.
  """

  def __init__(self, run: run_folder.RunFolder):
    self._run = run
    self._folder = Path(run.workdir, 'checkpoints').absolute()
    self._checkpointer = ocp.training.Checkpointer(
      self._folder,
      preservation_policy=ocp.training.preservation_policies.LatestN(2),
    )
    self._executor = concurrent.futures.ThreadPoolExecutor(1)
    self._saving: concurrent.futures.Future | None = None
    self._failed = False
    self._hook = sys.unraisablehook
    sys.unraisablehook = _hiding_closed_loops(self._hook)

  def restore(self, items: Mapping[str, Any]) -> tuple[Mapping[str, Any], int]:
    """Restores the newest good checkpoint, if there are any checkpoints.

    Newer checkpoints that are damaged or unfinished are moved aside with a
    warning.

    Args:
      items: freshly initialised trees of arrays, and Grain iterators, which are
        moved to the position in the checkpoint.

    Returns:
      The restored items and their step; `items` and 0 if there is no
      checkpoint.

    Raises:
      run_documents.RunError: the checkpoints belong to a different run or
        number of processes, cannot be read, or none of them is good.
    """
    structure = _structure(items)
    step = devices.first_decides(lambda: self._choose(structure))
    self._checkpointer.reload()
    if step == 0:
      return items, 0
    loaded = self._checkpointer.load_checkpointables(step, dict(items))
    return {**items, **loaded}, step

  def save(self, step: int, items: Mapping[str, Any]) -> None:
    """Starts saving items, as in `restore`, after any earlier save.

    Raises:
      errors.UserError: the earlier save failed.
    """
    self._finish()
    response = self._checkpointer.save_checkpointables_async(step, dict(items))
    record = {
      'processes': jax.process_count(),
      'structure': _structure(items),
      'step': step,
      'config': self._run.config.model_dump(),
      'sources': self._run.run.model_dump()['sources'],
    }
    self._saving = self._executor.submit(self._record, step, response, record)

  def close(self) -> None:
    """Waits until everything is on disk.

    Raises:
      errors.UserError: the last save failed.
    """
    try:
      self._finish()
    finally:
      self._executor.shutdown()
      # Orbax would raise the error of the failed save a second time.
      expected = (OSError, ValueError) if self._failed else ()
      with contextlib.suppress(*expected):
        self._checkpointer.close()
      sys.unraisablehook = self._hook

  def _finish(self) -> None:
    if self._saving is None:
      return
    saving, self._saving = self._saving, None
    try:
      saving.result()
    except (OSError, ValueError) as error:
      reason = _reason(error)
      if reason is None:
        raise
      self._failed = True
      raise errors.UserError(
        f'cannot write a checkpoint to {self._folder}: {reason}; fix this and'
        ' rerun the same command to continue'
      ) from error

  def _record(
    self, step: int, response: Any, record: Mapping[str, Any]
  ) -> None:
    """Adds the record once the checkpoint is on disk."""
    response.result()
    if jax.process_index() == 0:
      folder = self._folder / str(step)
      files = {
        path.relative_to(folder).as_posix(): {
          'num_bytes': path.stat().st_size,
          'sha256': digests.of_file(path),
        }
        for path in sorted(folder.rglob('*'))
        if path.is_file()
      }
      json_documents.write(folder / _RECORD, {**record, 'files': files})

  def _choose(self, structure: Mapping[str, str]) -> int:
    """Returns the step of the newest good checkpoint, 0 if there is none."""
    steps = {checkpoint.step for checkpoint in self._checkpointer.checkpoints}
    chosen, defects = 0, {}
    for step in sorted(steps, reverse=True):
      # Orbax deletes the oldest: what is not ours is put aside before.
      if chosen and os.path.lexists(self._folder / str(step) / _RECORD):
        continue
      if (defect := self._defect(step, structure)) is None:
        chosen = step
      else:
        defects[step] = defect
    # Each save waits for the previous one, so an interruption leaves at most
    # one unfinished checkpoint.
    kinds = [kind for kind, _ in defects.values()]
    if not chosen and kinds not in ([], ['unfinished']):
      reasons = '; '.join(
        f'step {step}: {reason}' for step, (_, reason) in defects.items()
      )
      raise run_documents.RunError(
        f'no checkpoint in {self._folder} is good ({reasons}); delete that'
        ' folder to start over'
      )
    for step, (kind, reason) in defects.items():
      aside = files.move_aside(
        self._folder / str(step),
        self._folder.parent / f'{kind}_checkpoint_{step}',
      )
      logging.warning(
        'The checkpoint of step %d is %s (%s); it was moved to %s.',
        step,
        kind,
        reason,
        aside,
      )
    return chosen

  def _defect(
    self, step: int, structure: Mapping[str, str]
  ) -> tuple[str, str] | None:
    """Returns `damaged` or `unfinished` and the reason; None if it is neither.

    Raises:
      OSError: the checkpoint cannot be read.
      run_documents.RunError: it is good but belongs to a different run.
    """
    folder = self._folder / str(step)
    try:
      record = json_documents.read(folder / _RECORD, _Record)
      for name, expected in record.files.items():
        if (folder / name).stat().st_size != expected.num_bytes:
          return 'damaged', f'{name} has the wrong size'
        if digests.of_file(folder / name) != expected.sha256:
          return 'damaged', f'{name} has changed'
      if record.step not in (None, step):
        return 'damaged', f'it was saved after step {record.step}'
    except errors.DocumentError as error:
      return 'damaged', str(error)
    except (FileNotFoundError, NotADirectoryError) as error:
      if Path(error.filename).name == _RECORD:
        return 'unfinished', f'it has no {_RECORD}, which is written last'
      return 'damaged', f'{error.filename} is missing'
    here = self._run.config, self._run.run
    there = run_documents.Run(sources=record.sources, starts=[])
    if record.config and (
      found := run_folder.compare(*here, record.config.root, there)
    ):
      raise run_documents.RunError(
        f'{folder} was saved by another run ({"; ".join(found[:_SHOWN])});'
        ' restore the checkpoints of this one, or choose another --workdir'
      )
    if record.processes != jax.process_count():
      raise run_documents.RunError(
        f'{folder} was saved by {record.processes} processes, each with'
        f' its own part of the data; it cannot be continued by'
        f' {jax.process_count()}'
      )
    if not any(name.startswith("['best_params']") for name in record.structure):
      raise run_documents.RunError(
        f'{folder} was saved by an older version of this project; check that'
        ' out to continue, or choose another --workdir'
      )
    if found := run_documents.differences(record.structure, structure):
      more = len(found) - _SHOWN
      raise run_documents.RunError(
        f'{folder} holds a different model from that of the code and config:'
        f' {"; ".join(found[:_SHOWN])}'
        + (f' and {more} more differences' if more > 0 else '')
        + '; choose another --workdir, or check out the code that saved it'
      )
    return None


def _reason(error: Exception) -> str | None:
  """Returns the operating system's message; None for any other error.

  TensorStore raises ValueError with the system's error code in its text.
  """
  if isinstance(error, OSError):
    return error.strerror
  number = re.search(r"os_error_code='(\d+)'", str(error))
  return os.strerror(int(number.group(1))) if number else None


def _hiding_closed_loops(previous: Callable) -> Callable:
  """Hides what TensorStore prints of its other writes once one has failed."""

  def hook(unraisable: Any) -> None:
    if str(unraisable.exc_value) != 'Event loop is closed':
      previous(unraisable)

  return hook


def _structure(items: Mapping[str, Any]) -> dict[str, str]:
  return {
    jax.tree_util.keystr(path): f'{leaf.dtype}{list(leaf.shape)}'
    for path, leaf in jax.tree_util.tree_leaves_with_path(dict(items))
    if hasattr(leaf, 'dtype')  # Skips iterators.
  }
