"""One start of a run: its state, and the actions of the training loop on it."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
import math
from pathlib import Path
import signal
import sys
from typing import Any, NamedTuple, NoReturn

from absl import logging
from carracing_data import files
from clu import metrics as clu_metrics
import flax.struct
import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from trainers import checkpoints
from trainers import devices
from trainers import run_documents
from trainers import run_folder
from trainers import state as train_state
from trainers import training_log

_WORSE_EVALUATIONS = 3  # Consecutive ones before a warning.


class Task(NamedTuple):
  """A model to train, its data and its evaluation.

  Attributes:
    state: train state before the first step.
    dataset: endless dataset of this host's part of each batch.
    train_step: function (state, batch) → (state, metrics), compiled by the
      loop. It derives its random keys from `state.step`. Its metrics contain a
      non-finite value if the loss or a gradient is not finite.
    no_metrics: empty collection of the metrics, which include `loss`.
    evaluate: function that evaluates parameters.
    export: name, config and provenance of the exported weights.
  """

  state: train_state.TrainState
  dataset: grain.IterDataset
  train_step: Callable[
    [train_state.TrainState, Any],
    tuple[train_state.TrainState, clu_metrics.Collection],
  ]
  no_metrics: clu_metrics.Collection
  evaluate: Callable[[Any], training_log.Evaluation]
  export: run_folder.Export


@flax.struct.dataclass
class Run:
  """The part of a run that its checkpoints store.

  Attributes:
    state: train state.
    collected: metrics of the steps since the last write.
    best_params: parameters with the lowest validation loss so far.
    best_step: step of `best_params`.
    best_loss: validation loss of `best_params`.
    worse_evaluations: number of evaluations since the best one.
  """

  state: train_state.TrainState
  collected: clu_metrics.Collection
  best_params: Any
  best_step: np.ndarray
  best_loss: np.ndarray
  worse_evaluations: np.ndarray


def new_run(task: Task) -> Run:
  """Returns the state before the first step, on all devices."""
  return Run(
    state=devices.replicate(task.state),
    collected=devices.replicate(task.no_metrics),
    best_params=devices.replicate(task.state.best_params),
    best_step=np.array(0),
    best_loss=np.array(np.inf),
    worse_evaluations=np.array(0),
  )


@contextlib.contextmanager
def opened(
  config: ml_collections.ConfigDict,
  workdir: Path,
  make_task: Callable[[], Task],
  saved: checkpoints.Checkpoints,
) -> Iterator['Session']:
  """Continues a run from its newest checkpoint, or begins it.

  Args:
    config: config with `batch_size`, `num_steps` and `early_stop_evaluations`
      (number of evaluations without improvement before training stops; 0:
      never).
    workdir: folder of the run.
    make_task: function that returns the task. Each of its batches is sharded
      across all devices of all hosts.
    saved: checkpoints of the run.

  Yields:
    The session; see `loop.Session`.

  Raises:
    errors.UserError: see `checkpoints.Checkpoints.restore`.
  """
  task = make_task()
  with contextlib.closing(iter(devices.send_ahead(task.dataset))) as iterator:
    items, step = saved.restore({'state': new_run(task), 'data': iterator})
    yield Session(config, workdir, task, saved, iterator, step, items['state'])


@dataclasses.dataclass
class Session:
  """The mutable state of one start of a run; see `loop.Session`.

  Attributes:
    config: config of the run.
    workdir: folder of the run.
    task: model, data and evaluation.
    checkpoints: checkpoints of the run.
    iterator: iterator over batches on the devices.
    step: number of the last step.
    run: state of the run after that step.
  """

  config: ml_collections.ConfigDict
  workdir: Path
  task: Task
  checkpoints: checkpoints.Checkpoints
  iterator: grain.DatasetIterator
  step: int
  run: Run

  def __post_init__(self):
    self.export = self.task.export
    self._advance = _compile(self.task.train_step)
    self._saved_step = self.step
    self._unchecked: tuple[int, Any, jax.Array] | None = None

  @functools.cached_property  # Opens files, so not before it is needed.
  def log(self) -> training_log.TrainingLog:
    return training_log.TrainingLog(
      self.workdir, self.config.batch_size, self.config.num_steps
    )

  @property
  def saved(self) -> Any:
    return self.run

  @property
  def params(self) -> Any:
    return self.run.state.params

  @property
  def best_params(self) -> Any:
    return self.run.best_params

  @property
  def best_step(self) -> int:
    return int(self.run.best_step)

  def take_step(self) -> jax.Array:
    with self.log.waiting():
      batch = next(self.iterator)
    state, collected, finite = self._advance(
      self.run.state, self.run.collected, batch
    )
    self.run = self.run.replace(state=state, collected=collected)
    # Waits for the previous step while the device computes this one.
    self.check()
    self.step += 1
    self.log.after_step(self.step)
    self._unchecked = self.step, batch, finite
    return finite

  def collect_metrics(self) -> None:
    self.log.end_interval(self.step, self.run.collected)
    self.run = self.run.replace(
      collected=devices.replicate(self.task.no_metrics)
    )

  def evaluate(self) -> training_log.Evaluation:
    self.check()
    with self.log.paused():
      evaluation = self.task.evaluate(self.run.state.best_params)
      check_evaluation(evaluation, self.step)
      self.log.write(self.step, evaluation)
    self.run = _remember_best(self.run, self.step, evaluation)
    return evaluation

  def evaluate_best(self) -> training_log.Evaluation:
    return self.task.evaluate(self.run.best_params)

  def save(self) -> None:
    self.check()
    with self.log.paused():
      self.log.sync()
      self.checkpoints.save(
        self.step, {'state': self.run, 'data': self.iterator}
      )
    self._saved_step = self.step

  def stop(self, number: signal.Signals) -> NoReturn:
    """Saves a checkpoint if the last one is outdated, and exits."""
    self.check()
    self.log.flush()
    if self._saved_step < self.step:
      self.save()
    logging.warning(
      'Stopped by %s after step %d; rerun the same command to continue.',
      number.name,
      self.step,
    )
    sys.exit(128 + number)

  def stops_early(self) -> bool:
    limit = self.config.early_stop_evaluations
    return 0 < limit <= self.run.worse_evaluations

  def check(self) -> None:
    """Saves the batch and raises RunError if the last step was not finite."""
    if self._unchecked is None or bool(self._unchecked[2]):
      return
    step, batch, _ = self._unchecked
    name = f'not_finite_step_{step}_process_{jax.process_index()}.npz'
    path = self.workdir / name
    leaves = {
      jax.tree_util.keystr(key).strip('.') or 'batch': leaf
      for key, leaf in jax.tree_util.tree_leaves_with_path(
        devices.local_part(batch)
      )
    }
    with files.write_errors(path):
      np.savez_compressed(path, **leaves)
    raise run_documents.RunError(
      f'the loss or a gradient is NaN or infinite in step {step}; its batch was'
      f' saved to {path}. Earlier checkpoints are kept; try a new --workdir'
      ' with a lower learning_rate or with max_gradient_norm'
    )


def _compile(train_step: Callable) -> Callable:
  """Compiles a step that also collects metrics and checks if all are finite."""

  def advance(state, collected, batch):
    state, metrics = train_step(state, batch)
    finite = [
      jnp.isfinite(x).all()
      for x in jax.tree.leaves(metrics)
      if jnp.issubdtype(x.dtype, jnp.floating)
    ]
    return state, collected.merge(metrics), jnp.stack(finite).all()

  return jax.jit(advance, donate_argnums=0, out_shardings=devices.replicated())


def check_evaluation(evaluation: training_log.Evaluation, step: int) -> None:
  """Raises RunError if a number of an evaluation is not finite."""
  values = {'loss': evaluation.loss, **evaluation.scalars}
  for name, value in values.items():
    if not math.isfinite(value):
      raise run_documents.RunError(
        f'the validation at step {step} has {name} {value}; nothing was'
        ' exported. Earlier checkpoints are kept; try a new --workdir with a'
        ' lower learning_rate'
      )


def _remember_best(
  run: Run, step: int, evaluation: training_log.Evaluation
) -> Run:
  if not evaluation.loss < run.best_loss:
    worse = int(run.worse_evaluations) + 1
    if worse >= _WORSE_EVALUATIONS:
      logging.warning(
        'The lowest validation loss was at step %d, %d evaluations ago.',
        run.best_step,
        worse,
      )
    return run.replace(worse_evaluations=np.array(worse))
  return run.replace(
    best_params=jax.tree.map(jnp.copy, run.state.best_params),
    best_step=np.array(step),
    best_loss=np.array(evaluation.loss),
    worse_evaluations=np.array(0),
  )
