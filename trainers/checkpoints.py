"""Checkpoints of a run: the training state and the position in the data.

The only file that knows Orbax.
"""

import hashlib
import json
import os
from pathlib import Path
import shutil
from typing import Any, TypeVar

from absl import logging
from carracing_data import digests
import grain
import jax
from orbax.checkpoint import v1 as ocp

_State = TypeVar('_State')


class Checkpoints:
  """Saves in the background and keeps the newest two.

  The digest of a checkpoint's files lies beside it, so that one that was
  damaged later is not taken for good.
  """

  def __init__(self, folder: str | os.PathLike[str]):
    self._folder = Path(folder).absolute()
    self._checkpointer = ocp.training.Checkpointer(
      self._folder,
      preservation_policy=ocp.training.preservation_policies.LatestN(2),
    )
    self._digests = self._folder.with_name('checkpoint_digests.json')
    self._saving: tuple[int, Any] | None = None

  def restore(
    self, state: _State, iterator: grain.DatasetIterator
  ) -> tuple[_State, int]:
    """Restores the newest good checkpoint, if there is one.

    Damaged ones are put aside with a warning.

    Args:
      state: a freshly initialised state, any tree of arrays.
      iterator: a fresh iterator over the training data; set to the position of
        the checkpoint.

    Returns:
      The restored state and its step; the given state and 0 if there is no
      checkpoint.
    """
    start = iterator.get_state()
    for checkpoint in reversed(self._checkpointer.checkpoints):
      step = checkpoint.step
      try:
        self._verify(step)
        loaded = self._checkpointer.load_checkpointables(
          step, {'state': state, 'data': iterator}
        )
        return loaded['state'], step
      except Exception as error:  # Whatever Orbax says of damaged files.
        aside = self._folder.parent / f'damaged_checkpoint_{step}'
        logging.warning(
          'The checkpoint of step %d is damaged (%s); it is put aside as %s.',
          step,
          str(error).partition('\n')[0][:100],
          aside,
        )
        iterator.set_state(start)
        if jax.process_index() == 0:
          shutil.rmtree(aside, ignore_errors=True)
          os.replace(self._folder / str(step), aside)
        self._checkpointer.reload()
    return state, 0

  def save(
    self, step: int, state: Any, iterator: grain.DatasetIterator
  ) -> None:
    """Starts to save; waits first if an earlier save is still under way."""
    self._finish()
    response = self._checkpointer.save_checkpointables_async(
      step, {'state': state, 'data': iterator}
    )
    self._saving = step, response

  def close(self) -> None:
    """Waits until everything is on disk."""
    self._finish()
    self._checkpointer.close()

  def _finish(self) -> None:
    if self._saving is None:
      return
    step, response = self._saving
    self._saving = None
    response.result()
    if jax.process_index() == 0:
      kept = [checkpoint.step for checkpoint in self._checkpointer.checkpoints]
      known = {
        key: value for key, value in self._known().items() if int(key) in kept
      }
      known[str(step)] = self._digest(step)
      partial = self._digests.with_suffix('.partial')
      partial.write_text(json.dumps(known, indent=2) + '\n')
      os.replace(partial, self._digests)

  def _verify(self, step: int) -> None:
    """Raises ValueError if a file has changed since it was saved."""
    # A run that was killed while it saved had no time to write the digest.
    known = self._known().get(str(step))
    if known is not None and known != self._digest(step):
      raise ValueError('its files have changed')

  def _known(self) -> dict[str, str]:
    """Returns the digests of checkpoints by step."""
    if not self._digests.exists():
      return {}
    return json.loads(self._digests.read_text())

  def _digest(self, step: int) -> str:
    digest = hashlib.sha256()
    folder = self._folder / str(step)
    for path in sorted(p for p in folder.rglob('*') if p.is_file()):
      digest.update(path.relative_to(folder).as_posix().encode())
      digest.update(digests.of_file(path).encode())
    return digest.hexdigest()
