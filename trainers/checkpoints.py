"""Checkpoints of a run: the training state and the position in the data.

The only file that knows Orbax.
"""

import os
from typing import Any, TypeVar

import grain
from orbax.checkpoint import v1 as ocp

_State = TypeVar('_State')


class Checkpoints:
  """Saves in the background and keeps the newest two."""

  def __init__(self, folder: str | os.PathLike[str]):
    self._checkpointer = ocp.training.Checkpointer(
      os.path.abspath(folder),
      preservation_policy=ocp.training.preservation_policies.LatestN(2),
    )

  def restore(
    self, state: _State, iterator: grain.DatasetIterator
  ) -> tuple[_State, int]:
    """Restores the newest checkpoint, if there is one.

    Args:
      state: a freshly initialised state.
      iterator: a fresh iterator over the training data; set to the position of
        the checkpoint.

    Returns:
      The restored state and its step; the given state and 0 if there is no
      checkpoint.
    """
    latest = self._checkpointer.latest
    if latest is None:
      return state, 0
    loaded = self._checkpointer.load_checkpointables(
      latest, {'state': state, 'data': iterator}
    )
    return loaded['state'], latest.step

  def save(
    self, step: int, state: Any, iterator: grain.DatasetIterator
  ) -> None:
    """Starts to save; waits first if an earlier save is still under way."""
    self._checkpointer.save_checkpointables_async(
      step, {'state': state, 'data': iterator}
    )

  def close(self) -> None:
    """Waits until everything is on disk."""
    self._checkpointer.close()
