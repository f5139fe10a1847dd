"""Compares the speeds of contenders that do the same work.

Machines are noisy, so figures from different runs are not comparable. Here each
contender has its own process, with its own threads and memory, and in each
round every contender takes one turn. The ratio of two rates is computed within
a round; its median over the rounds is the result, its range shows the noise.
"""

from collections.abc import Callable, Mapping, Sequence
import multiprocessing
from multiprocessing import connection
import pkgutil
import statistics
import time
from typing import Any, NamedTuple

import jax

# Does some work and returns its amount, in the unit of the stage.
Work = Callable[[], float]


class Contender(NamedTuple):
  """An implementation of a stage's work.

  Attributes:
    name: name to show.
    prepare: function that returns the work; a module-level one, because it is
      sent to the process; or its name, `MODULE:FUNCTION`, if its module in
      `tools.benchmark` raises ImportError when an extra is not installed.
    arguments: its arguments.
  """

  name: str
  prepare: Callable[..., Work] | str
  arguments: tuple[Any, ...] = ()


class Stage(NamedTuple):
  """Work that several contenders do.

  Attributes:
    name: name for `--only`.
    title: title to show.
    unit: unit of the work, e.g. `frames`.
    contenders: our contender first, then its alternatives.
    make_data: function that makes what contenders read, if it is missing.
  """

  name: str
  title: str
  unit: str
  contenders: Sequence[Contender]
  make_data: Callable[[], object] | None = None


def repeat(
  step: Callable[[Any, Any], tuple[Any, Any]],
  state: Any,
  batch: Any,
  amount: float,
) -> Work:
  """Returns work that takes a training step with the same batch every time.

  The step is compiled, from a state and a batch to the next state and metrics;
  `amount` is its amount of work.
  """

  def work() -> float:
    nonlocal state
    state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    return amount

  return work


def run(
  stage: Stage, rounds: int, seconds: float
) -> Mapping[str, Sequence[float]]:
  """Runs the contenders in turns.

  Each contender takes `rounds` turns, of at least `seconds` each.

  Returns:
    The rates of each contender in units per second, one per round; none for
    contenders that are not installed.

  Raises:
    RuntimeError: a contender failed.
  """
  if stage.make_data is not None:
    stage.make_data()
  rivals = [_Rival(contender) for contender in stage.contenders]
  try:
    present = [rival for rival in rivals if rival.prepared()]
    rates: dict[str, list[float]] = {c.name: [] for c in stage.contenders}
    for _ in range(rounds):
      for rival in present:
        rates[rival.name].append(rival.turn(seconds))
    return rates
  finally:
    for rival in rivals:
      rival.stop()


def ratios(
  ours: Sequence[float], theirs: Sequence[float]
) -> tuple[float, float, float]:
  """Returns the median, lowest and highest ratio of the rates of a round."""
  found = [a / b for a, b in zip(ours, theirs, strict=True)]
  return statistics.median(found), min(found), max(found)


class _Rival:
  """Handle of a contender's process."""

  def __init__(self, contender: Contender):
    self.name = contender.name
    spawn = multiprocessing.get_context('spawn')
    self._connection, theirs = spawn.Pipe()
    self._process = spawn.Process(target=_take_turns, args=(contender, theirs))
    self._process.start()
    theirs.close()

  def prepared(self) -> bool:
    """Waits for the preparation; returns False if a package is missing."""
    return self._receive()

  def turn(self, seconds: float) -> float:
    """Runs one turn; returns its rate."""
    self._connection.send(seconds)
    return self._receive()

  def stop(self) -> None:
    self._process.terminate()
    self._process.join()

  def _receive(self):
    try:
      return self._connection.recv()
    except EOFError:
      raise RuntimeError(
        f'the contender {self.name!r} failed; see above'
      ) from None


def _take_turns(contender: Contender, parent: connection.Connection) -> None:
  """Main function of a contender's process."""
  try:
    prepare = contender.prepare
    if isinstance(prepare, str):
      prepare = pkgutil.resolve_name(f'tools.benchmark.{prepare}')
    work = prepare(*contender.arguments)
  except ImportError:
    parent.send(False)
    return
  work()  # Compiles and warms caches.
  work()
  parent.send(True)
  while True:
    try:
      seconds = parent.recv()
    except EOFError:  # The parent process has ended.
      return
    done, started = 0.0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds or not done:
      done += work()
    parent.send(done / elapsed)
