"""The training loop of all models: a task → trained and exported weights.

A run keeps its files in one folder; see `run_folder`. The same command
continues an interrupted run, bit for bit.
"""

from collections.abc import Callable, Mapping
import contextlib
from pathlib import Path

from absl import logging
import jax
import ml_collections
from trainers import checkpoints
from trainers import devices
from trainers import interruption
from trainers import profiling
from trainers import run_documents
from trainers import run_folder
from trainers import session as session_lib
from trainers import tracking
from trainers import training_log


def train(
  config: ml_collections.ConfigDict,
  workdir: Path,
  sources: Mapping[str, run_documents.Source],
  make_task: Callable[[], session_lib.Task],
  options: tracking.Options,
) -> None:
  """Trains up to `config.num_steps`, from the newest checkpoint if any.

  Each batch is sharded across all devices of all hosts. At the end the
  parameters with the lowest validation loss are exported, and the run is
  marked as finished.

  Args:
    config: config with `batch_size`, `num_steps`, `log_every_steps`,
      `eval_every_steps`, `checkpoint_every_steps` and `early_stop_evaluations`
      (number of evaluations without improvement before training stops; 0:
      never).
    workdir: folder of the run.
    sources: datasets and weights that the run uses, by role.
    make_task: function that returns the task; not called if nothing is left
      to do.
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
    task = make_task()
    with (
      contextlib.closing(iter(devices.send_ahead(task.dataset))) as iterator,
      contextlib.closing(
        checkpoints.Checkpoints(workdir / 'checkpoints')
      ) as saved,
    ):
      items, first_step = saved.restore(
        {'state': session_lib.new_run(task), 'data': iterator}
      )
      run = items['state']
      if claim.standing == run_folder.Standing.WEIGHTS_MISSING:
        run_folder.export_again(claim, task.export, run.best_params)
        return
      run_folder.begin(claim, first_step, task.state, task.state.params)
      devices.first_decides(lambda: tracking.start(options, workdir, config))
      if first_step:
        logging.info('Continuing from step %d.', first_step)
      session = session_lib.Session(
        config, workdir, task, saved, iterator, first_step, run
      )
      with session.log:
        evaluation = _take_steps(session, options.profile_steps)
    run_folder.finish(
      claim,
      task.export,
      int(session.run.best_step),
      session.run.best_params,
      evaluation,
    )


def _take_steps(
  session: session_lib.Session, profile_steps: int
) -> training_log.Evaluation:
  """Runs the remaining steps; returns the evaluation of the best parameters."""
  config, first_step = session.config, session.step
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
        if session.run.best_step == step:
          best_evaluation = evaluation
        if not last and session.stops_early():
          last = True
          if step % config.log_every_steps:
            session.collect_metrics()
      if last or step % config.checkpoint_every_steps == 0:
        session.save()
  # The best evaluation may predate this start of the run.
  return best_evaluation or session.task.evaluate(session.run.best_params)
