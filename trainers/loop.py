"""The training loop of all models: a learner → trained and exported weights.

A run keeps its files in one folder; see `run_folder`. The same command
continues an interrupted run, bit for bit.
"""

import abc
from collections.abc import Callable, Mapping
import contextlib
import math
from pathlib import Path
import signal
import sys
import threading
from types import FrameType
from typing import Any, NamedTuple, NoReturn

from absl import logging
from carracing_data import runtime
from clu import metrics
import jax
from jax.experimental import multihost_utils
from trainers import checkpoints
from trainers import devices
from trainers import run_documents
from trainers import run_folder
from trainers import training_log
from trainers.configs import base

_SIGNALS = signal.SIGTERM, signal.SIGINT


class Learner(abc.ABC):
  """What is trained, and how it takes a step.

  Attributes:
    exports_last: whether the last parameters are exported, or else those with
      the lowest validation loss.
    stops_anywhere: whether a checkpoint can be saved after any step, or else
      only where new episodes begin.
    shown_metric: metric to show with the progress.
    examples_per_step: number of examples in a step, to measure the speed.
  """

  exports_last: bool = False
  stops_anywhere: bool = True
  shown_metric: str = 'loss'
  examples_per_step: int

  @property
  @abc.abstractmethod
  def saved(self) -> Mapping[str, Any]:
    """Trees of arrays, and Grain iterators, from which `restore` continues."""

  @property
  @abc.abstractmethod
  def params(self) -> Any:
    """A copy of the parameters as they would be exported."""

  @abc.abstractmethod
  def restore(self, saved: Mapping[str, Any], step: int) -> None:
    """Continues after a step from what was saved then."""

  def begin(self, step: int) -> None:  # noqa: B027  Optional.
    """Starts new episodes after a step, if there are any.

    Called before the first step, and after every evaluation and save.
    """

  @abc.abstractmethod
  def take_step(self, step: int) -> float:
    """Runs a step, perhaps without waiting for the device.

    Returns:
      The seconds that it waited for input data.

    Raises:
      run_documents.RunError: this step or the one before was not finite.
    """

  def check(self) -> None:  # noqa: B027  Optional.
    """Waits for the last step.

    Raises:
      run_documents.RunError: it was not finite.
    """

  @abc.abstractmethod
  def collect(self) -> tuple[metrics.Collection | None, Mapping[str, float]]:
    """Returns the metrics since the last call: on the device, and others.

    The former are None if there was nothing to measure.
    """

  @abc.abstractmethod
  def evaluate(self) -> training_log.Evaluation:
    """Evaluates `params`."""

  @abc.abstractmethod
  def close(self) -> None:
    """Releases threads and processes."""


class Best(NamedTuple):
  """The parameters to export, as far as the run has come.

  Attributes:
    params: the parameters.
    step: step of the parameters; 0 before the first evaluation.
    loss: validation loss of the parameters.
    scalars: metrics of their evaluation, by name.
  """

  params: Any
  step: int = 0
  loss: float = math.inf
  scalars: Mapping[str, float] = {}


def train_and_evaluate(
  config: base.RunConfig,
  workdir: Path,
  sources: Mapping[str, run_documents.Source],
  export: run_folder.Export,
  make_learner: Callable[[], Learner],
  options: training_log.Options,
) -> None:
  """Trains up to `config.num_steps`, from the newest checkpoint if any.

  At the end the best or the last parameters are exported, and the run is
  marked as finished.

  Args:
    config: hyperparameters.
    workdir: folder of the run.
    sources: datasets and weights that the run uses, by role.
    export: name, config and provenance of the exported weights.
    make_learner: function that returns the learner before the first step; not
      called if nothing is left to do.
    options: profiling and logging options.

  Raises:
    run_documents.RunError: the folder holds a different or a longer run, or a
      loss is not finite.
    errors.UserError: the folder or its checkpoints cannot be read or written,
      or JAX is set up to give other results.
    SystemExit: the process received SIGTERM or SIGINT; the exit status is 128
      plus the number of the signal.
  """
  runtime.check_settings()
  with run_folder.opened(workdir, config, sources) as run:
    if run.finished:
      logging.info('%s is finished; there is nothing left to do.', workdir)
      return
    with (
      contextlib.closing(checkpoints.Checkpoints(run)) as saved,
      contextlib.closing(make_learner()) as learner,
    ):
      best = Best(learner.params)
      # Only an evaluation tells its scalars: None restores what was saved.
      items, first_step = saved.restore({**_items(learner, best), 'best': None})
      if first_step:
        learner.restore(items, first_step)
        best = Best(items['best_params'], **items['best'])
        logging.info('Continuing from step %d.', first_step)
      run.begin(first_step, best.params)
      if (project := options.wandb_project) is not None:
        devices.first_decides(
          lambda: training_log.start_wandb(project, workdir, config, run.id)
        )
      with (
        training_log.TrainingLog(
          workdir,
          first_step,
          learner.examples_per_step,
          config.num_steps,
          learner.shown_metric,
        ) as log,
        training_log.Profile(
          workdir, first_step + 1, options.profile_steps
        ) as profile,
        _Interruption() as interrupted,
      ):
        saved_step, begins = first_step, True
        for step in range(first_step + 1, config.num_steps + 1):
          if number := interrupted.before_step(step):
            if learner.stops_anywhere and saved_step < step - 1:
              saved_step = _save(saved, learner, best, step - 1, log)
            _stop(number, step - 1, saved_step)
          if begins:
            learner.begin(step - 1)
          profile.before_step(step)
          waited = learner.take_step(step)
          profile.after_step(step, learner.check)
          log.after_step(step, waited)
          if step == first_step + 1:
            learner.check()
            log.leave_out_compilation(step)
          last = step == config.num_steps
          evaluates = last or step % config.eval_every_steps == 0
          saves = last or step % config.checkpoint_every_steps == 0
          begins = evaluates or saves
          if last or step % config.log_every_steps == 0:
            log.end_interval(step, *learner.collect())
          if evaluates:
            best = _evaluate(learner, best, step, log, run)
          if saves:
            saved_step = _save(saved, learner, best, step, log)
    run.finish(export, best.step, best.params, best.scalars)


def _items(learner: Learner, best: Best) -> dict[str, Any]:
  """Returns what a checkpoint holds."""
  evaluation = best._asdict()
  params = evaluation.pop('params')
  return {**learner.saved, 'best_params': params, 'best': evaluation}


def _evaluate(
  learner: Learner,
  best: Best,
  step: int,
  log: training_log.TrainingLog,
  run: run_folder.RunFolder,
) -> Best:
  """Evaluates the parameters; returns them if they are better than `best`."""
  learner.check()
  with log.paused():
    evaluation = learner.evaluate()
    for name, value in {'loss': evaluation.loss, **evaluation.scalars}.items():
      if not math.isfinite(value):
        raise run_documents.RunError(
          f'the validation at step {step} has {name} {value}; nothing was'
          ' exported. Earlier checkpoints are kept; try a new --workdir with a'
          ' lower learning_rate'
        )
    log.write(step, evaluation)
    if learner.exports_last or evaluation.loss < best.loss:
      run.write_pictures(evaluation.images)
      return Best(learner.params, step, evaluation.loss, evaluation.scalars)
  logging.info('The lowest validation loss was at step %d.', best.step)
  return best


def _save(
  saved: checkpoints.Checkpoints,
  learner: Learner,
  best: Best,
  step: int,
  log: training_log.TrainingLog,
) -> int:
  """Starts saving a checkpoint once the metrics before it are on disk."""
  learner.check()
  with log.paused():
    log.sync()
    saved.save(step, _items(learner, best))
  return step


def _stop(number: signal.Signals, step: int, saved_step: int) -> NoReturn:
  logging.warning(
    'Stopped by %s after step %d; rerun the same command to continue from step'
    ' %d.',
    number.name,
    step,
    saved_step,
  )
  sys.exit(128 + number)


class _Interruption(contextlib.AbstractContextManager):
  """Turns SIGTERM and SIGINT into a flag that the loop polls between steps.

  Clusters send SIGTERM before they reclaim a machine; Ctrl-C sends SIGINT. A
  later Ctrl-C stops the process at once, as usual. A later SIGTERM does not: if
  all processes are sent one, a pipeline passes its own on to its trainer.
  """

  def __init__(self):
    self._received: signal.Signals | None = None
    self._previous = {}

  def __enter__(self) -> '_Interruption':
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
    self._received = self._received or signal.Signals(number)
    signal.signal(signal.SIGINT, self._previous[signal.SIGINT])

  def _restore(self) -> None:
    for number, handler in self._previous.items():
      # What a pipeline sends while the last checkpoint is being written.
      if self._received is None or number != signal.SIGTERM:
        signal.signal(number, handler)
