"""Cars in worker processes, stepped together through shared memory."""

from collections.abc import Iterator, Sequence
import contextlib
import ctypes
import math
import multiprocessing
from multiprocessing import connection
from multiprocessing import resource_tracker
from multiprocessing import util
import signal
from typing import Any, NamedTuple

from carracing_data import processes
from carracing_data import rlds_steps
from carracing_rollouts import environment
import cv2
import numpy as np
from trainers import run_documents
from trainers.control import practice
from trainers.control import privileged_observations


class Views(NamedTuple):
  """The shared memory of B cars; every step overwrites it.

  Attributes:
    action: float32 [B, 3], input of a step.
    observation: uint8 [B, 64, 64, 3], 0..255: after the step, or the first one
      of the next episode.
    privileged: float32 [B, 51]: state of the simulator at `observation`.
    reward: float32 [B]: the shaped reward of the step.
    outcome: int32 [B]: see `practice.Outcome`.
    episode_return: float32 [B]: sum of the game's rewards in the episode.
    episode_steps: int32 [B]: steps of the episode.
  """

  action: np.ndarray
  observation: np.ndarray
  privileged: np.ndarray
  reward: np.ndarray
  outcome: np.ndarray
  episode_return: np.ndarray
  episode_steps: np.ndarray


# Shape and dtype for one car.
_FIELDS = Views(
  action=((rlds_steps.ACTION_SIZE,), np.float32),
  observation=(rlds_steps.OBSERVATION_SHAPE, np.uint8),
  privileged=((privileged_observations.SIZE,), np.float32),
  reward=((), np.float32),
  outcome=((), np.int32),
  episode_return=((), np.float32),
  episode_steps=((), np.int32),
)


class Fleet:
  """B cars, divided among worker processes.

  What a car does depends on its own seed and actions alone, so the number of
  workers changes nothing.

  Attributes:
    views: the state of the cars.
  """

  def __init__(
    self,
    num_cars: int,
    rules: practice.Rules,
    num_workers: int | None = None,
  ):
    """Starts the workers, by default one for each core."""
    context = multiprocessing.get_context('spawn')
    memory = [
      context.RawArray(
        ctypes.c_uint8, num_cars * math.prod(shape) * np.dtype(dtype).itemsize
      )
      for shape, dtype in _FIELDS
    ]
    self.views = _views(memory)
    self._workers: list[Any] = []
    self._pipes: list[connection.Connection] = []
    parts = np.array_split(
      np.arange(num_cars), min(num_workers or processes.num_cores(), num_cars)
    )
    # At exit, multiprocessing would wait for workers that ignore its signal.
    self._stop = util.Finalize(
      self, _stop, (self._workers, self._pipes), exitpriority=100
    )
    with processes.bare_main(), _blocked_signals():
      for cars in parts:
        ours, theirs = context.Pipe()
        worker = context.Process(
          target=_work,
          args=(theirs, memory, cars.tolist(), rules),
          daemon=True,
        )
        worker.start()
        theirs.close()  # So that its end is noticed here.
        self._workers.append(worker)
        self._pipes.append(ours)

  def close(self) -> None:
    """Stops the workers."""
    self._stop()

  def practise(self, seed: Sequence[int]) -> None:
    """Starts to practise on random tracks; see `practice.Car.practise`.

    Each car adds its index to the seed, the entropy of its random draws.
    """
    self._all('practise', list(seed))

  def drive(self, tracks: Sequence[int], stuck_steps: int = 0) -> None:
    """Starts a single episode on each of B tracks, given by their seeds.

    A car that has finished its episode waits for the others. For `stuck_steps`
    see `practice.Rules`.
    """
    self._all('drive', [(track, stuck_steps) for track in tracks])

  def step(self) -> None:
    """Drives one step with the actions in `views`."""
    self._all('step', None)

  def _all(self, command: str, argument: Any) -> None:
    try:
      for pipe in self._pipes:
        pipe.send((command, argument))
      for pipe in self._pipes:
        pipe.recv()
    except (EOFError, OSError):
      raise run_documents.RunError(
        'a simulator process ended unexpectedly (out of memory?); rerun the'
        ' same command to continue'
      ) from None


def _work(
  pipe: connection.Connection,
  memory: Sequence[Any],
  ids: Sequence[int],
  rules: practice.Rules,
) -> None:
  """Runs the cars of one worker until the pipe is closed."""
  cv2.setNumThreads(1)
  views = _views(memory)
  cars = {i: practice.Car(rules) for i in ids}
  running = dict.fromkeys(ids, True)
  single = False

  def show(i: int, frame: np.ndarray) -> None:
    views.observation[i] = environment.resize(frame[None])[0]
    views.privileged[i] = cars[i].privileged()

  while True:
    try:
      command, argument = pipe.recv()
    except (EOFError, OSError):  # The parent has ended.
      return
    if command == 'step':
      for i in ids:
        if not running[i]:
          continue
        result = cars[i].step(views.action[i])
        views.reward[i] = result.shaped_reward
        views.outcome[i] = result.outcome
        views.episode_return[i] = result.episode_return
        views.episode_steps[i] = result.episode_steps
        running[i] = not single or result.outcome == practice.Outcome.RUNNING
        show(i, result.frame)
    else:
      single = command == 'drive'
      for i in ids:
        running[i] = True
        views.outcome[i] = practice.Outcome.RUNNING
        if single:
          show(i, cars[i].drive(*argument[i]))
        else:
          rng = np.random.default_rng([*argument, i])
          show(i, cars[i].practise(rng))
    try:
      pipe.send(None)
    except OSError:
      return


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
  """Blocks signals in processes that are started inside this context.

  A signal may be sent to all processes at once; only the parent decides what to
  do. Python's resource tracker unblocks both signals when it starts, so it is
  started before.
  """
  resource_tracker.ensure_running()
  signals = signal.SIGINT, signal.SIGTERM
  previous = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _stop(
  workers: Sequence[Any], pipes: Sequence[connection.Connection]
) -> None:
  for pipe in pipes:
    pipe.close()
  for worker in workers:
    worker.kill()
    worker.join()


def _views(memory: Sequence[Any]) -> Views:
  """Returns shared memory, one buffer a field, as arrays."""
  return Views(
    *(
      np.frombuffer(buffer, dtype).reshape(-1, *shape)
      for buffer, (shape, dtype) in zip(memory, _FIELDS)
    )
  )
