"""Contenders that do the same work → how fast each of them is, side by side.

Machines are noisy, so figures of different runs do not compare. Here every
contender lives in a process of its own, which keeps its threads and its memory
apart from the others', and they take turns: one round each, several times over.
What is told is the ratio within a round; its median over the rounds is what
counts, its range shows the noise.
"""

from collections.abc import Callable, Mapping, Sequence
import multiprocessing
from multiprocessing import connection
import statistics
import time
from typing import NamedTuple

# Does a piece of work and returns how much that was, in the stage's unit.
Work = Callable[[], float]


class Contender(NamedTuple):
  """Somebody who does a stage's work.

  Attributes:
    name: to be shown.
    prepare: a function of a module, or a partial of one: goes to the process.
      What it returns does the work. It raises ImportError if something that it
      needs is not installed.
  """

  name: str
  prepare: Callable[[], Work]


class Stage(NamedTuple):
  """Work that several contenders do.

  Attributes:
    name: for `--only`.
    title: to be shown.
    unit: of the work, e.g. `frames`.
    contenders: ours first, then what it is compared with.
  """

  name: str
  title: str
  unit: str
  contenders: Sequence[Contender]


class Comparison(NamedTuple):
  """How our rate compares with another's: ours / theirs.

  Attributes:
    median: over the rounds.
    lowest: of a round.
    highest: of a round.
  """

  median: float
  lowest: float
  highest: float


def run(
  stage: Stage, rounds: int, seconds: float
) -> Mapping[str, Sequence[float]]:
  """Lets the contenders take turns.

  Args:
    stage: the contenders.
    rounds: how many turns each has.
    seconds: how long a turn lasts at least.

  Returns:
    The rates of every round in units per second, for each contender; none for
    those that are not installed.

  Raises:
    RuntimeError: a contender failed.
  """
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


def compare(ours: Sequence[float], theirs: Sequence[float]) -> Comparison:
  """Compares the rates of the same rounds."""
  ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
  return Comparison(statistics.median(ratios), min(ratios), max(ratios))


class _Rival:
  """A contender's process, seen from outside."""

  def __init__(self, contender: Contender):
    self.name = contender.name
    spawn = multiprocessing.get_context('spawn')
    self._connection, theirs = spawn.Pipe()
    self._process = spawn.Process(
      target=_take_turns, args=(contender.prepare, theirs)
    )
    self._process.start()
    theirs.close()

  def prepared(self) -> bool:
    """Waits until it is; False if something is not installed."""
    return self._receive()

  def turn(self, seconds: float) -> float:
    """Lets it work; returns its rate."""
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


def _take_turns(
  prepare: Callable[[], Work], parent: connection.Connection
) -> None:
  """What happens in a contender's process."""
  try:
    work = prepare()
  except ImportError:
    parent.send(False)
    return
  work()  # Compiles and warms caches.
  work()
  parent.send(True)
  while True:
    try:
      seconds = parent.recv()
    except EOFError:  # Nobody is left to work for.
      return
    done, started = 0.0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds or not done:
      done += work()
    parent.send(done / elapsed)
