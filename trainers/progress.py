"""Shows the progress of a run: `step 450/1500 · 9.4 steps/s · ...`."""

import sys
import time

from absl import logging
from carracing_data import command_line

_EVERY_SECONDS = 10  # In a log.
_EVERY_SECONDS_ON_TERMINAL = 0.2


class Progress:
  """Shows steps, speed, time left and loss in one line.

  On a terminal the line is updated in place; elsewhere it is logged every 10 s.
  """

  def __init__(self, num_steps: int):
    """Creates a line that stays hidden until `start`.

    Args:
      num_steps: number of steps of the run.
    """
    self._num_steps = num_steps
    self._on_terminal = sys.stderr.isatty()
    self._loss: float | None = None
    self._started: float | None = None

  def start(self, step: int) -> None:
    """Starts measuring speed, after the step that was compiled."""
    self._first_step = step
    self._started = self._shown = time.monotonic()
    self._paused = 0.0

  def pause(self, seconds: float) -> None:
    """Excludes time that was not spent on training from the speed."""
    self._paused += seconds

  def set_loss(self, loss: float) -> None:
    """Sets the training loss to show."""
    self._loss = loss

  def after_step(self, step: int) -> None:
    """Shows the line if the last update is long enough ago."""
    if self._started is None:
      return
    now = time.monotonic()
    every = _EVERY_SECONDS_ON_TERMINAL if self._on_terminal else _EVERY_SECONDS
    if now - self._shown < every and step < self._num_steps:
      return
    self._shown = now
    line = self._line(step, now - self._started)
    if self._on_terminal:
      print(f'{command_line.CLEAR}{line}', end='', file=sys.stderr, flush=True)
    else:
      logging.info('%s', line)

  def close(self) -> None:
    """Erases the line."""
    if self._on_terminal and self._started is not None:
      print(command_line.CLEAR, end='', file=sys.stderr, flush=True)

  def _line(self, step: int, seconds: float) -> str:
    parts = [f'step {step}/{self._num_steps}']
    if taken := step - self._first_step:
      speed = taken / max(seconds - self._paused, 1e-9)
      parts.append(f'{speed:.3g} steps/s')
      if steps_left := self._num_steps - step:
        parts.append(f'{duration(steps_left * seconds / taken)} left')
    if self._loss is not None:
      parts.append(f'loss {self._loss:.4g}')
    return ' · '.join(parts)


def duration(seconds: float) -> str:
  """Formats a duration: `40 s`, `1 min 52 s`, `3 h 5 min`."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes} min'
  return f'{minutes} min {seconds} s' if minutes else f'{seconds} s'
