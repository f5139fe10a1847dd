"""How far a run is, in one line: `step 450/1500 · 9.4 steps/s · ...`."""

from collections.abc import Callable
import shutil
import sys
import time
from typing import TextIO

from absl import logging
from carracing_data import command_line

_EVERY_SECONDS = 10  # In a log.
_EVERY_SECONDS_ON_TERMINAL = 0.2


class Progress:
  """Shows steps, speed, time left and a metric.

  The line is updated in place on a terminal, and logged every 10 s elsewhere.
  """

  def __init__(
    self,
    num_steps: int,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Shows nothing until `start`.

    Args:
      num_steps: total number of steps of the run.
      stream: terminal, if it is one; by default stderr.
      clock: returns the time in seconds.
    """
    self._num_steps = num_steps
    self._stream = sys.stderr if stream is None else stream
    self._clock = clock
    self._on_terminal = self._stream.isatty()
    self._metric: str | None = None
    self._started: float | None = None

  def start(self, step: int) -> None:
    """Starts to measure, after the step that includes the compilation."""
    self._first_step = self._step = step
    self._started = self._shown = self._clock()
    self._paused = 0.0

  def pause(self, seconds: float) -> None:
    """Excludes time that was not spent on training from the speed."""
    self._paused += seconds

  def show_metric(self, name: str, value: float) -> None:
    """Sets the metric to show from now on."""
    self._metric = f'{name} {value:.4g}'

  def after_step(self, step: int) -> None:
    """Shows the line if it is due."""
    if self._started is None:
      return
    self._step = step
    every = _EVERY_SECONDS_ON_TERMINAL if self._on_terminal else _EVERY_SECONDS
    if self._clock() - self._shown >= every:
      self._show()

  def close(self) -> None:
    """Shows the last step, below all messages."""
    if self._started is not None:
      self._show()
      if self._on_terminal:
        print(file=self._stream, flush=True)

  def _show(self) -> None:
    self._shown = self._clock()
    if self._on_terminal:
      width = shutil.get_terminal_size().columns - 1  # A row can be cleared.
      line = f'{command_line.CLEAR}{self.line()[:width]}'
      print(line, end='', file=self._stream, flush=True)
    else:
      logging.info('%s', self.line())

  def line(self) -> str:
    """Returns the line; the time left is that of the steps alone."""
    parts = [f'step {self._step}/{self._num_steps}']
    if self._started is not None and self._step > self._first_step:
      seconds = self._clock() - self._started - self._paused
      speed = (self._step - self._first_step) / max(seconds, 1e-9)
      parts.append(f'{speed:.3g} steps/s')
      if steps_left := self._num_steps - self._step:
        parts.append(f'{duration(steps_left / speed)} left')
    if self._metric is not None:
      parts.append(self._metric)
    return ' · '.join(parts)


def duration(seconds: float) -> str:
  """Formats a duration: `40 s`, `1 min 52 s`, `3 h 5 min`."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes} min'
  return f'{minutes} min {seconds} s' if minutes else f'{seconds} s'
