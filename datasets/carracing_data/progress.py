"""How far a piece of work is: `step 450/1500 · 9.4 steps/s · 1 min 52 s left`.

All programs of this project show it alike: a line that is updated in place on
a terminal, and a line every 10 s, without control characters, elsewhere.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import shutil
import sys
import threading
import time
from typing import TextIO, TypeVar

from carracing_data import command_line

_EVERY_SECONDS = 10  # In a log.
_EVERY_SECONDS_ON_TERMINAL = 0.2

_T = TypeVar('_T')


class Progress(contextlib.AbstractContextManager):
  """Shows how much is done, the speed, the time left and a metric."""

  def __init__(
    self,
    title: str,
    unit: str,
    total: int,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Shows nothing until `start`, and then, by default, on stderr.

    The unit is in the plural; the clock returns the time in seconds.
    """
    self._title = title
    self._unit = unit
    self._total = total
    self._stream = sys.stderr if stream is None else stream
    self._clock = clock
    self._on_terminal = command_line.on_terminal(self._stream)
    self._metric: str | None = None
    self._started: float | None = None

  def __exit__(self, *exception) -> None:
    self.close()

  def start(self, done: int = 0) -> None:
    """Starts to measure; what is done before does not count for the speed."""
    self._first = self._done = done
    self._started = self._shown = self._clock()
    self._last: int | None = None  # What the last line showed.
    self._paused = 0.0

  def pause(self, seconds: float) -> None:
    """Excludes time that was not spent on the work from the speed."""
    self._paused += seconds

  def show_metric(self, name: str, value: float) -> None:
    """Sets the metric to show from now on."""
    self._metric = f'{name} {value:.4g}'

  def update(self, done: int) -> None:
    """Sets how much is done, and shows the line if it is due."""
    if self._started is None:
      return
    self._done = done
    every = _EVERY_SECONDS_ON_TERMINAL if self._on_terminal else _EVERY_SECONDS
    if self._clock() - self._shown >= every:
      self.show()

  def count_one(self) -> None:
    """Counts one more as done; see `update`."""
    self.update(self._done + 1)

  def close(self) -> None:
    """Shows the last state, below all messages."""
    if self._started is not None:
      if self._on_terminal or self._done != self._last:
        self.show()
      if self._on_terminal:
        print(file=self._stream, flush=True)

  def show(self) -> None:
    """Shows the line now."""
    self._shown, self._last = self._clock(), self._done
    if self._on_terminal:
      width = shutil.get_terminal_size().columns - 1  # A row can be cleared.
      line = f'{command_line.CLEAR}{self.line()[:width]}'
    else:
      # Not logged: it is also shown to programs that do not set up logging.
      line = f'{time.strftime(command_line.TIME)} {self.line()}\n'
    with contextlib.suppress(OSError):  # A full disk stops the work, not this.
      print(line, end='', file=self._stream, flush=True)

  def line(self) -> str:
    """Returns the line; the time left is that of the work alone."""
    parts = [f'{self._title} {self._done}/{self._total}']
    if self._started is not None and self._done > self._first:
      seconds = self._clock() - self._started - self._paused
      speed = (self._done - self._first) / max(seconds, 1e-9)
      parts.append(f'{speed:.3g} {self._unit}/s')
      if left := self._total - self._done:
        parts.append(f'{duration(left / speed)} left')
    if self._metric is not None:
      parts.append(self._metric)
    return ' · '.join(parts)


def each(items: Sequence[_T], title: str, unit: str) -> Iterator[_T]:
  """Yields the items and shows how many of them are done."""
  with Progress(title, unit, len(items)) as shown:
    shown.start()
    for i in range(len(items)):
      yield items[i]
      shown.count_one()


@contextlib.contextmanager
def watching(
  title: str,
  unit: str,
  total: int,
  count: Callable[[], int],
  every_seconds: float = 1.0,
) -> Iterator[None]:
  """Shows how much is finished, whichever process does it.

  `count`, which is called every so many seconds, returns how many are finished.
  The unit is in the plural.
  """
  ended = threading.Event()
  with Progress(title, unit, total) as shown:
    found = count()
    shown.start(found)
    if found:
      shown.show()  # An interrupted piece of work goes on.

    def watch() -> None:
      while not ended.wait(every_seconds):
        shown.update(count())
      shown.update(count())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
      yield
    finally:
      ended.set()
      watcher.join()


def duration(seconds: float) -> str:
  """Formats a duration: `40 s`, `1 min 52 s`, `3 h 5 min`."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes} min'
  return f'{minutes} min {seconds} s' if minutes else f'{seconds} s'
