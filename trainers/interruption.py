"""Turns SIGTERM and SIGINT into a flag that the loop polls between steps."""

import contextlib
import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils

_SIGNALS = signal.SIGTERM, signal.SIGINT


class Interruption(contextlib.AbstractContextManager):
  """Defers signals until the loop polls them.

  Clusters send SIGTERM before they reclaim a machine; Ctrl-C sends SIGINT. A
  second signal stops the process at once, as usual.
  """

  def __init__(self):
    self._received: signal.Signals | None = None
    self._previous = {}

  def __enter__(self) -> 'Interruption':
    # With several hosts, JAX handles SIGTERM and synchronises the hosts.
    alone = jax.process_count() == 1
    if alone and threading.current_thread() is threading.main_thread():
      self._previous = {s: signal.signal(s, self._receive) for s in _SIGNALS}
    return self

  def __exit__(self, *exception) -> None:
    self._restore()

  def before_step(self, step: int) -> signal.Signals | None:
    """Returns the signal received, if any; the same one on all hosts."""
    if jax.process_count() > 1:
      if multihost_utils.reached_preemption_sync_point(step):
        return signal.SIGTERM
    return self._received

  def _receive(self, number: int, frame: FrameType | None) -> None:
    del frame
    self._received = signal.Signals(number)
    self._restore()

  def _restore(self) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)
