"""The training loop of all models: a task → trained and exported weights.

A run lives in its folder, see `run_folder`. The same command continues an
interrupted run, bit for bit.
"""

from collections.abc import Callable, Mapping
import contextlib
import math
from pathlib import Path
import sys
from typing import Any, NamedTuple

from absl import logging
from carracing_data import places
from clu import metric_writers
from clu import metrics as clu_metrics
from clu import periodic_actions
import flax.struct
import grain
import jax
import jax.numpy as jnp
import ml_collections
from models import weights
import numpy as np
from trainers import checkpoints
from trainers import devices
from trainers import interruption
from trainers import profiling
from trainers import run_folder
from trainers import state as train_state
from trainers import training_log

# Logged once the first step has run; the start-up benchmark waits for it.
FIRST_STEP = 'Took the first step.'
_WORSE_EVALUATIONS = 3  # In a row, and there is a warning.
_CHECKPOINTS = 4  # Two are kept, one is written, and one for all the rest.


class Task(NamedTuple):
  """What there is to learn.

  Attributes:
    state: before the first step.
    dataset: endless batches, this host's part of them.
    train_step: takes a state and a batch; is compiled by the loop. Its random
      draws derive from `state.step`. Its metrics have a non-finite value if the
      loss or a gradient is not finite.
    no_metrics: the metrics of no step.
    evaluate: judges parameters.
    export: takes parameters and what they came from, writes them to the run's
      folder `weights` and returns the SHA-256 of the weights file.
  """

  state: train_state.TrainState
  dataset: grain.IterDataset
  train_step: Callable[
    [train_state.TrainState, Any],
    tuple[train_state.TrainState, clu_metrics.Collection],
  ]
  no_metrics: clu_metrics.Collection
  evaluate: Callable[[Any], training_log.Evaluation]
  export: Callable[[Any, Mapping[str, Any]], str]


@flax.struct.dataclass
class _Run:
  """All that a run must remember.

  Attributes:
    state: of the training.
    collected: metrics since they were written last.
    best_params: with the least validation loss so far.
    best_step: that `best_params` are of.
    best_loss: of `best_params`.
    worse_evaluations: since the best one.
  """

  state: train_state.TrainState
  collected: clu_metrics.Collection
  best_params: Any
  best_step: np.ndarray
  best_loss: np.ndarray
  worse_evaluations: np.ndarray


def train(
  config: ml_collections.ConfigDict,
  workdir: Path,
  claim: run_folder.Claim,
  task: Task,
  profile_steps: int = 0,
) -> None:
  """Trains until `config.num_steps`, from the newest checkpoint if any.

  The batch is divided among all devices of all hosts. At the end the best
  parameters by validation are exported, and then the run is finished.

  Args:
    config: with `batch_size`, `num_steps`, `log_every_steps`,
      `eval_every_steps`, `checkpoint_every_steps` and `early_stop_evaluations`
      (stop after so many without a better one; 0: never).
    workdir: the folder of the run, claimed.
    claim: of the folder.
    task: what there is to learn.
    profile_steps: how many steps to profile for TensorBoard.

  Raises:
    run_folder.RunError: the folder holds a longer run, or a loss is not finite.
    errors.UserError: checkpoints cannot be read or written.
    SystemExit: SIGTERM or SIGINT came; the exit status is 128 + its number.
  """
  iterator = iter(devices.send_ahead(task.dataset))
  with (
    contextlib.closing(iterator),
    contextlib.closing(
      checkpoints.Checkpoints(workdir / 'checkpoints')
    ) as saved,
  ):
    run, first_step = saved.restore(_new_run(task), iterator)
    if claim.standing == run_folder.Standing.WEIGHTS_MISSING:
      _export_again(workdir, task, run)
      return
    devices.first_decides(
      lambda: _begin(config, workdir, claim, task, first_step)
    )
    if first_step:
      logging.info('Continuing from step %d.', first_step)
    run, evaluation = _train(
      config, workdir, task, run, first_step, iterator, saved, profile_steps
    )
  _finish(config, workdir, task, run, evaluation)


def _begin(
  config: ml_collections.ConfigDict,
  workdir: Path,
  claim: run_folder.Claim,
  task: Task,
  first_step: int,
) -> int:
  """Checks that the run can go on from a step, and records that it does."""
  if first_step > config.num_steps:
    raise run_folder.RunError(
      f'{workdir} has been trained for {first_step} steps already, more than'
      f' {config.num_steps}; choose another --workdir or more num_steps'
    )
  metrics = run_folder.last_metrics(workdir)
  if metrics is not None and first_step < metrics.step:
    raise run_folder.RunError(
      f'{workdir} holds weights of step {metrics.step}, but no checkpoint to'
      ' continue from; choose another --workdir, or delete that folder'
    )
  places.check_space(workdir, _CHECKPOINTS * _num_bytes(task.state))
  assert claim.run is not None
  run_folder.record_start(workdir, config, claim.run, task.state.params)
  return 0


def _train(
  config: ml_collections.ConfigDict,
  workdir: Path,
  task: Task,
  run: _Run,
  first_step: int,
  iterator: grain.DatasetIterator,
  saved: checkpoints.Checkpoints,
  profile_steps: int,
) -> tuple[_Run, training_log.Evaluation]:
  """Takes the steps; returns the run and the evaluation of its best params."""
  writer = metric_writers.create_default_writer(
    str(workdir), just_logging=jax.process_index() > 0
  )
  log = training_log.TrainingLog(writer, config.batch_size)
  progress = periodic_actions.ReportProgress(
    num_train_steps=config.num_steps, writer=writer, every_secs=10
  )
  advance = _compile(task.train_step)
  best_evaluation = unchecked = None
  saved_step = first_step
  last = first_step == config.num_steps or _stops_early(config, run)
  with (
    metric_writers.ensure_flushes(writer),
    interruption.Interruption() as interrupted,
    profiling.Profile(workdir, first_step + 1, profile_steps) as profile,
  ):
    step = first_step
    while not last:
      if signal := interrupted.before_step(step + 1):
        _check(unchecked, workdir)
        log.flush()
        if saved_step < step:
          saved.save(step, run, iterator)
        logging.warning(
          'Stopped by %s after step %d; the same command continues.',
          signal.name,
          step,
        )
        sys.exit(128 + signal)
      step += 1
      profile.before_step(step)
      with log.waiting():
        batch = next(iterator)
      state, collected, finite = advance(run.state, run.collected, batch)
      run = run.replace(state=state, collected=collected)
      # What follows waits for the step before this one, while the device works.
      _check(unchecked, workdir)
      log.flush()
      unchecked = step, batch, finite
      profile.after_step(step, finite)
      if step == first_step + 1:
        jax.block_until_ready(finite)
        logging.info(FIRST_STEP)
        log.start_interval()
      progress(step)

      last = step == config.num_steps
      if last or step % config.log_every_steps == 0:
        log.end_interval(step, run.collected)
        run = run.replace(collected=devices.replicate(task.no_metrics))
      if last or step % config.eval_every_steps == 0:
        _check(unchecked, workdir)
        with log.paused(), progress.timed('evaluation'):
          evaluation = task.evaluate(run.state.best_params)
          _check_evaluation(evaluation, step)
          log.write(step, evaluation)
        run = _remember_best(run, step, evaluation)
        if run.best_step == step:
          best_evaluation = evaluation
        last = last or _stops_early(config, run)
      if last or step % config.checkpoint_every_steps == 0:
        _check(unchecked, workdir)
        with log.paused():
          log.flush()
          writer.flush()
          saved.save(step, run, iterator)
        saved_step = step
    if best_evaluation is None:  # It was before the run was continued.
      best_evaluation = task.evaluate(run.best_params)
  return run, best_evaluation


def _finish(
  config: ml_collections.ConfigDict,
  workdir: Path,
  task: Task,
  run: _Run,
  evaluation: training_log.Evaluation,
) -> None:
  """Exports the best parameters, then says that the run is finished."""
  step = int(run.best_step)
  logging.info('The best parameters are those of step %d.', step)
  if jax.process_index() == 0:
    sha256 = task.export(
      run.best_params, {'step': step, 'validation': dict(evaluation.scalars)}
    )
    run_folder.write_pictures(workdir, evaluation.images)
    run_folder.finish(workdir, config, step, evaluation.scalars, sha256)


def _export_again(workdir: Path, task: Task, run: _Run) -> None:
  """Exports the weights of a finished run, if a checkpoint still has them.

  Raises:
    run_folder.RunError: no checkpoint has.
  """
  if jax.process_index() > 0:
    return
  metrics = run_folder.read_metrics(workdir)
  if weights.digest(run.best_params) != metrics.weights_sha256:
    raise run_folder.RunError(
      f'{workdir} is finished, but {workdir / "weights"} is missing, and no'
      f' checkpoint holds the parameters of step {metrics.step} any more;'
      f' delete {workdir} to train again'
    )
  task.export(
    run.best_params, {'step': metrics.step, 'validation': metrics.validation}
  )
  logging.info('%s is finished; its weights were exported again.', workdir)


def _new_run(task: Task) -> _Run:
  return _Run(
    state=devices.replicate(task.state),
    collected=devices.replicate(task.no_metrics),
    best_params=devices.replicate(task.state.best_params),
    best_step=np.array(0),
    best_loss=np.array(np.inf),
    worse_evaluations=np.array(0),
  )


def _num_bytes(tree: Any) -> int:
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _compile(train_step: Callable) -> Callable:
  """Returns the step that also collects metrics and tells if all is finite."""

  def advance(state, collected, batch):
    state, metrics = train_step(state, batch)
    finite = [
      jnp.isfinite(x).all()
      for x in jax.tree.leaves(metrics)
      if jnp.issubdtype(x.dtype, jnp.floating)
    ]
    return state, collected.merge(metrics), jnp.stack(finite).all()

  return jax.jit(advance, donate_argnums=0, out_shardings=devices.replicated())


def _check(unchecked: tuple[int, Any, jax.Array] | None, workdir: Path) -> None:
  """Raises RunError if a step was not finite, and keeps its batch."""
  if unchecked is None or bool(unchecked[2]):
    return
  step, batch, _ = unchecked
  path = workdir / f'not_finite_step_{step}_process_{jax.process_index()}.npz'
  leaves = {
    jax.tree_util.keystr(key).strip('.') or 'batch': leaf
    for key, leaf in jax.tree_util.tree_leaves_with_path(
      devices.local_part(batch)
    )
  }
  with places.write_errors(path):
    np.savez_compressed(path, **leaves)
  raise run_folder.RunError(
    f'the loss or a gradient is NaN or infinite in step {step}; its batch is in'
    f' {path}. Checkpoints before it are kept; a new --workdir with a lower'
    ' learning_rate or with max_gradient_norm may help'
  )


def _check_evaluation(evaluation: training_log.Evaluation, step: int) -> None:
  """Raises RunError if an evaluation is not finite."""
  values = {'loss': evaluation.loss, **evaluation.scalars}
  for name, value in values.items():
    if not math.isfinite(value):
      raise run_folder.RunError(
        f'the validation at step {step} has {name} {value}; nothing was'
        ' exported. Checkpoints before it are kept; a new --workdir with a'
        ' lower learning_rate may help'
      )


def _remember_best(
  run: _Run, step: int, evaluation: training_log.Evaluation
) -> _Run:
  if not evaluation.loss < run.best_loss:
    worse = int(run.worse_evaluations) + 1
    if worse >= _WORSE_EVALUATIONS:
      logging.warning(
        'Validation was best at step %d, %d evaluations ago.',
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


def _stops_early(config: ml_collections.ConfigDict, run: _Run) -> bool:
  return 0 < config.early_stop_evaluations <= run.worse_evaluations
