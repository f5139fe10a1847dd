"""The training loop of all models: a session → trained and exported weights.

A run keeps its files in one folder; see `run_folder`. The same command
continues an interrupted run, bit for bit.
"""

from collections.abc import Callable, Mapping
import contextlib
from pathlib import Path
import signal
from typing import Any, NoReturn, Protocol

from absl import logging
import jax
import ml_collections
from trainers import checkpoints
from trainers import devices
from trainers import interruption
from trainers import profiling
from trainers import run_documents
from trainers import run_folder
from trainers import tracking
from trainers import training_log


class Session(Protocol):
  """One start of a run: its state, and the actions of the loop on it.

  Attributes:
    workdir: folder of the run.
    step: number of the last step.
    saved: tree of the arrays that every checkpoint holds.
    params: parameters, to be described in the folder of the run.
    best_params: best parameters so far, to export.
    best_step: step of `best_params`.
    export: name, config and provenance of the exported weights.
    log: metrics and progress.
  """

  workdir: Path
  step: int
  export: run_folder.Export

  @property
  def log(self) -> training_log.TrainingLog: ...

  @property
  def saved(self) -> Any: ...

  @property
  def params(self) -> Any: ...

  @property
  def best_params(self) -> Any: ...

  @property
  def best_step(self) -> int: ...

  def take_step(self) -> jax.Array:
    """Runs a step; returns whether all its metrics are finite, a bool []."""
    ...

  def collect_metrics(self) -> None:
    """Passes the metrics since the last call to the log."""
    ...

  def evaluate(self) -> training_log.Evaluation:
    """Evaluates the parameters and keeps them if they are the best so far."""
    ...

  def evaluate_best(self) -> training_log.Evaluation:
    """Evaluates the best parameters so far."""
    ...

  def save(self) -> None:
    """Starts saving a checkpoint, once the metrics before it are on disk."""
    ...

  def stop(self, number: signal.Signals) -> NoReturn:
    """Exits because of a signal; the same command can continue the run."""
    ...

  def stops_early(self) -> bool:
    """Returns whether the run ends before `config.num_steps`."""
    ...


OpenSession = Callable[
  [checkpoints.Checkpoints], contextlib.AbstractContextManager[Session]
]


def train(
  config: ml_collections.ConfigDict,
  workdir: Path,
  sources: Mapping[str, run_documents.Source],
  open_session: OpenSession,
  options: tracking.Options,
) -> None:
  """Trains up to `config.num_steps`, from the newest checkpoint if any.

  At the end the best parameters by validation are exported, and the run is
  marked as finished.

  Args:
    config: config with `num_steps`, `log_every_steps`, `eval_every_steps` and
      `checkpoint_every_steps`.
    workdir: folder of the run.
    sources: datasets and weights that the run uses, by role.
    open_session: function that restores the newest of the given checkpoints
      and yields this start of the run; not called if nothing is left to do.
    options: profiling and logging options.

  Raises:
    run_documents.RunError: the folder holds a different or a longer run, or a
      loss is not finite.
    errors.UserError: the folder or its checkpoints cannot be read or written.
    SystemExit: the process received SIGTERM or SIGINT; the exit status is 128
      plus the number of the signal.
  """
  tracking.check(options)
  with run_folder.claimed(workdir, config, sources) as claim:
    if claim.standing == run_folder.Standing.FINISHED:
      logging.info('%s is finished; there is nothing left to do.', workdir)
      return
    with (
      contextlib.closing(
        checkpoints.Checkpoints(workdir / 'checkpoints')
      ) as saved,
      open_session(saved) as session,
    ):
      if claim.standing == run_folder.Standing.WEIGHTS_MISSING:
        run_folder.export_again(claim, session.export, session.best_params)
        return
      run_folder.begin(claim, session.step, session.saved, session.params)
      devices.first_decides(lambda: tracking.start(options, workdir, config))
      if session.step:
        logging.info('Continuing from step %d.', session.step)
      with session.log:
        evaluation = _take_steps(session, config, options.profile_steps)
    run_folder.finish(
      claim,
      session.export,
      session.best_step,
      session.best_params,
      evaluation,
    )


def _take_steps(
  session: Session, config: ml_collections.ConfigDict, profile_steps: int
) -> training_log.Evaluation:
  """Runs the remaining steps; returns the evaluation of the best parameters."""
  first_step = session.step
  best_evaluation = None
  with (
    interruption.Interruption() as interrupted,
    profiling.Profile(
      session.workdir, first_step + 1, profile_steps
    ) as profile,
  ):
    while session.step < config.num_steps and not session.stops_early():
      if number := interrupted.before_step(session.step + 1):
        session.stop(number)
      profile.before_step(session.step + 1)
      finite = session.take_step()
      step, last = session.step, session.step == config.num_steps
      profile.after_step(step, finite)
      if step == first_step + 1:
        jax.block_until_ready(finite)
        session.log.leave_out_compilation(step)
      if last or step % config.log_every_steps == 0:
        session.collect_metrics()
      if last or step % config.eval_every_steps == 0:
        evaluation = session.evaluate()
        if session.best_step == step:
          best_evaluation = evaluation
        if not last and session.stops_early():
          last = True
          if step % config.log_every_steps:
            session.collect_metrics()
      if last or step % config.checkpoint_every_steps == 0:
        session.save()
  # The best evaluation may predate this start of the run.
  return best_evaluation or session.evaluate_best()
