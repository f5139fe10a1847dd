"""Shows and writes what a run measures: JSON, TensorBoard, terminal, W&B."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import json
import math
from pathlib import Path
import time
from typing import Any, NamedTuple

from absl import logging
from carracing_data import files
from carracing_data import progress
from clu import metrics as clu_metrics
import jax
import numpy as np
import tensorboardX
from trainers import run_documents
from trainers.configs import base


class Options(NamedTuple):
  """Profiling and logging options, which do not affect the result of a run.

  Attributes:
    profile_steps: number of steps to profile for TensorBoard.
    wandb_project: Weights & Biases project that receives the logs, if any.
  """

  profile_steps: int = 0
  wandb_project: str | None = None


class Result(NamedTuple):
  """A quantity to show after an evaluation.

  Attributes:
    name: name of the quantity, with its unit.
    value: value for the evaluated parameters.
    baselines: values to compare with, by name.
  """

  name: str
  value: float
  baselines: Mapping[str, float] = {}


class Evaluation(NamedTuple):
  """The outcome of an evaluation.

  Attributes:
    loss: validation loss; the lowest one determines the best parameters.
    scalars: metrics to write, by name.
    results: the few quantities to show on the terminal.
    images: images to write, uint8 [N, H, W, 3], by name.
  """

  loss: float
  scalars: Mapping[str, float]
  results: Sequence[Result] = ()
  images: Mapping[str, np.ndarray] = {}


class TrainingLog(contextlib.AbstractContextManager):
  """Writes metrics a step late, so that the device never waits for the host.

  TensorBoard and `metrics.jsonl` show no step twice after a kill.
  """

  def __init__(
    self,
    workdir: Path,
    first_step: int,
    examples_per_step: int,
    num_steps: int,
    shown_metric: str,
  ):
    """Opens the log in a folder, to which only the first host writes.

    TensorBoard forgets what was logged after `first_step`, from which the run
    continues; `RunFolder.begin` has done so with `metrics.jsonl`.
    `shown_metric` is shown with the progress, once it has a value.

    Raises:
      errors.UserError: a file cannot be written.
    """
    self._lines = None
    if jax.process_index() == 0:
      path = workdir / run_documents.CURVES
      with files.write_errors(path):  # Each line is written at once.
        self._lines = path.open('a', encoding='utf-8', buffering=1)
    self._writer = tensorboardX.SummaryWriter(
      str(workdir),
      purge_step=first_step + 1,
      write_to_disk=self._lines is not None,
    )
    self._progress = progress.Progress('step', 'steps', num_steps)
    self._examples_per_step = examples_per_step
    self._shown_metric = shown_metric
    self._pending: tuple[int, clu_metrics.Collection | None, dict] | None
    self._pending = None
    self._start_interval()

  def __exit__(self, kind: type[BaseException] | None, *exception) -> None:
    if kind in (None, SystemExit):
      self.flush()
    self._progress.close()
    self._writer.close()
    if self._lines is not None:
      self._lines.close()

  def _start_interval(self) -> None:
    self._started, self._waited, self._steps = time.perf_counter(), 0.0, 0

  def leave_out_compilation(self, step: int) -> None:
    """Starts measuring speed, after the step that was compiled."""
    self._start_interval()
    self._progress.start(step)

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Excludes the time inside this context from the training speed."""
    started = time.perf_counter()
    yield
    seconds = time.perf_counter() - started
    self._started += seconds
    self._progress.pause(seconds)

  def after_step(self, step: int, waited: float) -> None:
    """Writes the metrics of the previous interval and shows the progress.

    The step waited `waited` seconds for input data.
    """
    self.flush()
    self._steps += 1
    self._waited += waited
    self._progress.update(step)

  def end_interval(
    self,
    step: int,
    collected: clu_metrics.Collection | None,
    others: Mapping[str, float] = {},
  ) -> None:
    """Stores the metrics since the last call, for `flush` to write.

    `collected` is on the device, if anything is; `others` are known already.
    """
    elapsed = max(time.perf_counter() - self._started, 1e-9)
    speed = {}
    if self._steps:  # Zero if the only step was the one that compiles.
      examples = self._examples_per_step * self._steps
      speed = {'examples_per_second': examples / elapsed}
      if self._waited:
        speed['input_wait_share'] = self._waited / elapsed
    self._pending = step, collected, {**others, **speed}
    self._start_interval()

  def flush(self) -> None:
    """Writes the metrics of the last interval, unless already written."""
    if self._pending is not None:
      step, collected, others = self._pending
      self._pending = None
      scalars = {} if collected is None else floats(collected.compute())
      scalars |= others
      if self._shown_metric in scalars:
        name = self._shown_metric
        self._progress.show_metric(name, scalars[name])
      self._write_scalars(step, _prefixed('train', scalars))

  def sync(self) -> None:
    """Waits until all metrics are on disk."""
    self.flush()
    self._writer.flush()

  def write(self, step: int, evaluation: Evaluation) -> None:
    """Writes an evaluation and shows its results."""
    self.flush()
    self._write_scalars(step, _prefixed('validation', evaluation.scalars))
    for tag, image in _prefixed('validation', evaluation.images).items():
      self._writer.add_images(tag, image, step, dataformats='NHWC')
    logging.info('Validation after step %d:%s', step, _block(evaluation))

  def _write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    for tag, value in scalars.items():
      self._writer.add_scalar(tag, value, step)
    if self._lines is not None:
      known = {k: v for k, v in scalars.items() if math.isfinite(v)}
      self._lines.write(json.dumps({'step': step, **known}) + '\n')


class Profile(contextlib.AbstractContextManager):
  """Profiles steps for TensorBoard, after the first one, which is compiled."""

  def __init__(self, folder: Path, first_step: int, num_steps: int):
    """Configures a profile, which goes to `plugins/profile` in the folder.

    `first_step` is the first one of this start of the run; 0 steps are none.
    """
    self._folder = folder
    self._steps = range(first_step + 1, first_step + 1 + num_steps)
    self._active = contextlib.ExitStack()

  def before_step(self, step: int) -> None:
    """Starts the profile if it begins with this step."""
    if self._steps and step == self._steps[0]:
      self._active.enter_context(jax.profiler.trace(self._folder))

  def after_step(self, step: int, wait: Callable[[], None]) -> None:
    """Ends the profile after its last step, for which `wait` waits."""
    if self._steps and step == self._steps[-1]:
      wait()
      self._active.close()

  def __exit__(self, *exception) -> None:
    self._active.close()


def start_wandb(
  project: str, workdir: Path, config: base.RunConfig, run_id: str
) -> int:
  """Opens a run at Weights & Biases, or continues it, for `first_decides`.

  It is sent the TensorBoard logs that are opened later in the folder. The ID is
  the same when the run is continued.
  """
  import wandb  # pyright: ignore[reportMissingImports]  An optional dependency.

  wandb.init(
    project=project,
    dir=workdir,
    id=run_id,
    resume='allow',
    name=workdir.name,
    config=config.model_dump(),
    sync_tensorboard=True,
  )
  return 0


def averages(*names: str) -> dict[str, type[clu_metrics.Metric]]:
  """Returns metrics of the same names that are means of what a step reports."""
  return {name: clu_metrics.Average.from_output(name) for name in names}


def floats(scalars: Mapping[str, Any]) -> dict[str, float]:
  """Fetches scalars from the device as floats."""
  return {name: float(value) for name, value in scalars.items()}


def _prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
  return {f'{prefix}/{name}': value for name, value in values.items()}


def _block(evaluation: Evaluation) -> str:
  """Returns one line per result, with its baselines in parentheses."""
  width = max((len(r.name) for r in evaluation.results), default=0)
  lines = []
  for name, value, baselines in evaluation.results:
    beside = ', '.join(f'{k} {v:.4g}' for k, v in baselines.items())
    line = f'\n  {name:{width}}  {value:8.4g}'
    lines.append(line + (f'  ({beside})' if beside else ''))
  return ''.join(lines)
