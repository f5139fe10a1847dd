"""Metrics of training and of evaluations → TensorBoard and the terminal."""

from collections.abc import Iterator, Mapping
import contextlib
import time
from typing import Any, NamedTuple

from clu import metric_writers
from clu import metrics as clu_metrics
import numpy as np


class Evaluation(NamedTuple):
  """What an evaluation found.

  Attributes:
    loss: what is to be as small as possible.
    scalars: by name.
    images: uint8 [N, H, W, 3], by name.
  """

  loss: float
  scalars: Mapping[str, float]
  images: Mapping[str, np.ndarray]


class TrainingLog:
  """Writes metrics a step late, so that the device never waits for the host."""

  def __init__(self, writer: metric_writers.MetricWriter, batch_size: int):
    self._writer = writer
    self._batch_size = batch_size
    self._pending: tuple[int, clu_metrics.Collection, dict] | None = None
    self.start_interval()

  def start_interval(self) -> None:
    """Starts to measure speed, after whatever is no training step."""
    self._started, self._waited, self._steps = time.perf_counter(), 0.0, 0

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Counts the time within as waiting for the data of a step."""
    started = time.perf_counter()
    yield
    self._waited += time.perf_counter() - started
    self._steps += 1

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Leaves the time within, which is no training, out of the speed."""
    started = time.perf_counter()
    yield
    self._started += time.perf_counter() - started

  def end_interval(self, step: int, collected: clu_metrics.Collection) -> None:
    """Takes the metrics since the last call, to be written by `flush`."""
    elapsed = max(time.perf_counter() - self._started, 1e-9)
    speed = {}
    if self._steps:  # Not if there was only the step that compiles.
      speed = {
        'examples_per_second': self._batch_size * self._steps / elapsed,
        'input_wait_share': self._waited / elapsed,
      }
    self._pending = step, collected, speed
    self.start_interval()

  def flush(self) -> None:
    """Writes what an interval found, if that has not been done."""
    if self._pending is not None:
      step, collected, speed = self._pending
      self._pending = None
      self._write_scalars('train', step, floats(collected.compute()) | speed)

  def write(self, step: int, evaluation: Evaluation) -> None:
    """Writes an evaluation."""
    self.flush()
    self._write_scalars('validation', step, evaluation.scalars)
    if evaluation.images:
      self._writer.write_images(
        step, _prefixed('validation', evaluation.images)
      )

  def _write_scalars(
    self, prefix: str, step: int, scalars: Mapping[str, float]
  ) -> None:
    self._writer.write_scalars(step, _prefixed(prefix, scalars))


def floats(scalars: Mapping[str, Any]) -> dict[str, float]:
  """Fetches scalars from the device."""
  return {name: float(value) for name, value in scalars.items()}


def _prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
  return {f'{prefix}/{name}': value for name, value in values.items()}
