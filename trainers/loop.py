"""The training loop of all models: data and a step function → a trained state.

A run lives in its folder, see `run_folder`. The same command continues an
interrupted run, bit for bit.
"""

from collections.abc import Callable, Mapping
import contextlib
from pathlib import Path
import sys
from typing import Any, NamedTuple, TypeVar

from absl import logging
from clu import metric_writers
from clu import metrics as clu_metrics
from clu import periodic_actions
import flax.struct
import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from trainers import checkpoints
from trainers import devices
from trainers import interruption
from trainers import run_folder
from trainers import state as train_state
from trainers import training_log

Batch = TypeVar('Batch')

FIRST_STEP = 'Took the first step.'  # What tells that compilation is over.
_WORSE_EVALUATIONS = 3  # In a row, and there is a warning.


class Trained(NamedTuple):
  """The outcome of a run.

  Attributes:
    params: the best by validation.
    step: that they are of.
    scalars: their evaluation.
  """

  params: Any
  step: int
  scalars: Mapping[str, float]


@flax.struct.dataclass
class _Run:
  """All that a run must remember.

  Attributes:
    state: of the training.
    collected: metrics since they were written last.
    best_params: with the least validation loss so far.
    best_step: that `best_params` are of.
    best_loss: of `best_params`.
  """

  state: train_state.TrainState
  collected: clu_metrics.Collection
  best_params: Any
  best_step: np.ndarray
  best_loss: np.ndarray


def train(
  config: ml_collections.ConfigDict,
  workdir: Path,
  state: train_state.TrainState,
  trained_on: tfds.core.DatasetBuilder,
  dataset: grain.IterDataset[Batch],
  train_step: Callable[
    [train_state.TrainState, Batch],
    tuple[train_state.TrainState, clu_metrics.Collection],
  ],
  no_metrics: clu_metrics.Collection,
  evaluate: Callable[[Any], training_log.Evaluation],
  profile_steps: int = 0,
) -> Trained:
  """Trains until `config.num_steps`, from the newest checkpoint if any.

  The batch is divided among all devices of all hosts.

  Args:
    config: with `batch_size`, `num_steps`, `log_every_steps`,
      `eval_every_steps`, `checkpoint_every_steps` and `early_stop_evaluations`
      (stop after so many without a better one; 0: never).
    workdir: the folder of the run.
    state: the initial state.
    trained_on: the dataset that the batches are from.
    dataset: endless batches, this host's part of them.
    train_step: is compiled here; its random draws derive from `state.step`. Its
      metrics have a non-finite value if the loss or a gradient is not finite.
    no_metrics: the metrics of no step.
    evaluate: takes the parameters.
    profile_steps: how many steps to profile for TensorBoard.

  Returns:
    The best parameters and their evaluation.

  Raises:
    run_folder.RunError: the folder holds another run or a longer one, or a loss
      is not finite.
    SystemExit: SIGTERM or SIGINT came; the exit status is 128 + its number.
  """
  run_folder.claim(workdir, config, trained_on, state.params)
  iterator = iter(devices.send_ahead(dataset))
  saved = checkpoints.Checkpoints(workdir / 'checkpoints')
  writer = metric_writers.create_default_writer(
    str(workdir), just_logging=jax.process_index() > 0
  )
  with (
    contextlib.closing(iterator),
    contextlib.closing(saved),
    metric_writers.ensure_flushes(writer),
    interruption.Interruption() as interrupted,
  ):
    run, first_step = saved.restore(_new_run(state, no_metrics), iterator)
    if first_step > config.num_steps:
      raise run_folder.RunError(
        f'{workdir} has been trained for {first_step} steps already, more than'
        f' {config.num_steps}; choose another --workdir or more num_steps'
      )
    if run_folder.finished(workdir, config):
      logging.info('%s is finished, nothing is left to do.', workdir)
      metrics = run_folder.read_metrics(workdir)
      return Trained(run.best_params, metrics['step'], metrics['validation'])
    if first_step:
      logging.info('Continuing from step %d.', first_step)

    advance = _compile(train_step)
    log = training_log.TrainingLog(writer, config.batch_size)
    progress = periodic_actions.ReportProgress(
      num_train_steps=config.num_steps, writer=writer, every_secs=10
    )
    hooks = [progress]
    if profile_steps:
      hooks.append(
        periodic_actions.Profile(
          logdir=str(workdir),
          num_profile_steps=profile_steps,
          first_profile=first_step + 10,
        )
      )
    saved_step, unchecked, best_evaluation = first_step, None, None
    for step in range(first_step + 1, config.num_steps + 1):
      if signal := interrupted.before_step(step):
        _check(unchecked, workdir)
        log.flush()
        if saved_step < step - 1:
          saved.save(step - 1, run, iterator)
        logging.warning(
          'Stopped by %s after step %d; the same command continues.',
          signal.name,
          step - 1,
        )
        sys.exit(128 + signal)
      with log.waiting():
        batch = next(iterator)
      state, collected, finite = advance(run.state, run.collected, batch)
      run = run.replace(state=state, collected=collected)
      # What follows waits for the step before this one, while the device works.
      _check(unchecked, workdir)
      log.flush()
      unchecked = step, batch, finite
      if step == first_step + 1:
        jax.block_until_ready(finite)
        logging.info(FIRST_STEP)
      for hook in hooks:
        hook(step)

      last = step == config.num_steps
      if last or step % config.log_every_steps == 0:
        log.end_interval(step, run.collected)
        run = run.replace(collected=devices.put_everywhere(no_metrics))
      if last or step % config.eval_every_steps == 0:
        _check(unchecked, workdir)
        with progress.timed('evaluation'):
          evaluation = evaluate(run.state.best_params)
        log.write(step, evaluation)
        run = _remember_best(run, step, evaluation)
        if run.best_step == step:
          best_evaluation = evaluation
        last = last or _stops_early(config, step, int(run.best_step))
      if last or step % config.checkpoint_every_steps == 0:
        _check(unchecked, workdir)
        log.flush()
        writer.flush()
        saved.save(step, run, iterator)
        saved_step = step
      if last:
        break
    if best_evaluation is None:  # It was before the run was continued.
      best_evaluation = evaluate(run.best_params)
  scalars = training_log.floats(best_evaluation.scalars)
  best_step = int(run.best_step)
  if jax.process_index() == 0:
    run_folder.write_pictures(workdir, best_evaluation.images)
    run_folder.finish(workdir, config, best_step, scalars)
  logging.info('The best parameters are those of step %d.', best_step)
  return Trained(run.best_params, best_step, scalars)


def _new_run(
  state: train_state.TrainState, no_metrics: clu_metrics.Collection
) -> _Run:
  return _Run(
    state=devices.put_everywhere(state),
    collected=devices.put_everywhere(no_metrics),
    best_params=devices.put_everywhere(state.best_params),
    best_step=np.array(0),
    best_loss=np.array(np.inf),
  )


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

  return jax.jit(advance, donate_argnums=0, out_shardings=devices.everywhere())


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
  np.savez_compressed(path, **leaves)
  raise run_folder.RunError(
    f'the loss or a gradient is NaN or infinite in step {step}; its batch is in'
    f' {path}. Checkpoints before it are kept; a new --workdir with a lower'
    ' learning_rate or with max_gradient_norm may help'
  )


def _remember_best(
  run: _Run, step: int, evaluation: training_log.Evaluation
) -> _Run:
  if not evaluation.loss < run.best_loss:
    return run
  return run.replace(
    best_params=jax.tree.map(jnp.copy, run.state.best_params),
    best_step=np.array(step),
    best_loss=np.array(evaluation.loss),
  )


def _stops_early(
  config: ml_collections.ConfigDict, step: int, best_step: int
) -> bool:
  """Warns when there is no progress for long; True if that is to be the end."""
  evaluations = (step - best_step) // config.eval_every_steps
  if evaluations >= _WORSE_EVALUATIONS:
    logging.warning(
      'Validation was best at step %d, %d evaluations ago.',
      best_step,
      evaluations,
    )
  return 0 < config.early_stop_evaluations <= evaluations
