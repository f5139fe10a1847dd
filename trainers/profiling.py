"""Profiles training steps for TensorBoard."""

import contextlib
from pathlib import Path
from typing import Any

import jax


class Profile(contextlib.AbstractContextManager):
  """Profiles steps after the first one, which is compiled."""

  def __init__(self, folder: Path, first_step: int, num_steps: int):
    """Configures a profile.

    Args:
      folder: output directory; the profile goes to `plugins/profile` in it.
      first_step: first step of this start of the run.
      num_steps: number of steps to profile; 0: none.
    """
    self._folder = folder
    self._start = first_step + 1
    self._stop = self._start + num_steps
    self._active = False

  def before_step(self, step: int) -> None:
    if step == self._start < self._stop:
      jax.profiler.start_trace(self._folder)
      self._active = True

  def after_step(self, step: int, outputs: Any) -> None:
    if self._active and step + 1 == self._stop:
      jax.block_until_ready(outputs)
      self._end()

  def __exit__(self, *exception) -> None:
    self._end()

  def _end(self) -> None:
    if self._active:
      self._active = False
      jax.profiler.stop_trace()
