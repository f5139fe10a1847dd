"""One start of a controller's run, for the training loop."""

from collections.abc import Iterator, Mapping
import contextlib
from pathlib import Path
import signal
import sys
from typing import Any, NoReturn

from absl import logging
from carracing_rollouts import tracks
import jax
import ml_collections
from models import controller
from models import world_model
import numpy as np
from trainers import checkpoints
from trainers import run_documents
from trainers import run_folder
from trainers import session as session_lib
from trainers import training_log
from trainers.control import driving
from trainers.control import learner as learner_lib

_NO_SCORES = driving.Scores(*np.zeros((3, 1)))
_LOST = 700  # Below this score the car got lost on the track.


@contextlib.contextmanager
def opened(
  config: ml_collections.ConfigDict,
  workdir: Path,
  model: world_model.WorldModel,
  c: controller.Controller,
  export: run_folder.Export,
  saved: checkpoints.Checkpoints,
) -> Iterator['Session']:
  """Continues a run from its newest checkpoint, or begins it.

  Args:
    config: see `trainers/configs/controller.py`.
    workdir: folder of the run.
    model: V and M.
    c: the controller to find.
    export: name, config and provenance of the exported weights.
    saved: checkpoints of the run.

  Yields:
    The session; see `loop.Session`.

  Raises:
    errors.UserError: see `checkpoints.Checkpoints.restore`.
  """
  with contextlib.closing(
    learner_lib.ActorCriticLearner(config, model, c)
  ) as learner:
    yield Session(config, workdir, learner, export, saved)


class Session:
  """The mutable state of one start of a run; see `loop.Session`.

  Cars start new episodes after every checkpoint and every evaluation, so that
  a run continues from a checkpoint as if it had not been stopped.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    workdir: Path,
    learner: learner_lib.ActorCriticLearner,
    export: run_folder.Export,
    saved: checkpoints.Checkpoints,
  ):
    self.workdir, self.export = workdir, export
    self.log = training_log.TrainingLog(
      workdir,
      config.num_cars * config.drive_steps,
      config.num_steps,
      shown_metric='return',
    )
    self._config, self._learner, self._checkpoints = config, learner, saved
    self._best = {
      'params': learner.params,
      'step': np.array(0),
      'scalars': {name: np.array(-np.inf) for name in _scalars(_NO_SCORES)},
    }
    items, self.step = saved.restore({'run': self.saved})
    self._saved_step = self.step
    if self.step:
      self._best = jax.tree.map(np.array, items['run']['best'])
      learner.restore(items['run']['learner'])
    self._must_begin = True
    self._finite = np.array(True)

  @property
  def saved(self) -> Any:
    return {'best': self._best, 'learner': self._learner.saved}

  @property
  def params(self) -> Any:
    return self._learner.params

  @property
  def best_params(self) -> Any:
    return self._best['params']

  @property
  def best_step(self) -> int:
    return int(self._best['step'])

  def take_step(self) -> Any:
    if self._must_begin:
      self._learner.begin(self.step)
      self._must_begin = False
    finite = self._learner.take_step(self.step + 1)
    self.step += 1
    self.log.after_step(self.step)
    if not finite:
      raise run_documents.RunError(
        f'the loss is NaN or infinite in step {self.step}. Earlier checkpoints'
        ' are kept; try a new --workdir with a lower learning_rate'
      )
    return finite

  def collect_metrics(self) -> None:
    self.log.end_interval(self.step, *self._learner.collect())

  def evaluate(self) -> training_log.Evaluation:
    with self.log.paused():
      params = self._learner.params
      scores = self._learner.score(
        params, tracks.SELECTION[: self._config.selection_tracks]
      )
      scalars = _scalars(scores)
      evaluation = _evaluation(scalars)
      session_lib.check_evaluation(evaluation, self.step)
      self.log.write(self.step, evaluation)
    self._must_begin = True
    if scalars['score'] > self._best['scalars']['score']:
      self._best = {
        'params': params,
        'step': np.array(self.step),
        'scalars': {name: np.array(x) for name, x in scalars.items()},
      }
    return evaluation

  def evaluate_best(self) -> training_log.Evaluation:
    return _evaluation({k: float(x) for k, x in self._best['scalars'].items()})

  def save(self) -> None:
    with self.log.paused():
      self.log.sync()
      self._checkpoints.save(self.step, {'run': self.saved})
    self._saved_step = self.step
    self._must_begin = True

  def stop(self, number: signal.Signals) -> NoReturn:
    self.log.flush()
    logging.warning(
      'Stopped by %s after step %d; rerun the same command to continue from'
      ' step %d.',
      number.name,
      self.step,
      self._saved_step,
    )
    sys.exit(128 + number)

  def stops_early(self) -> bool:
    return False


def _scalars(scores: driving.Scores) -> dict[str, float]:
  returns = scores.returns.astype(np.float64)
  return {
    'score': float(returns.mean()),
    'score_std': float(returns.std()),
    'score_median': float(np.median(returns)),
    'score_least': float(returns.min()),
    'completed': float(scores.completed.mean()),
    'lost': float((returns < _LOST).mean()),
    'episode_steps': float(scores.steps.mean()),
  }


def _evaluation(scalars: Mapping[str, float]) -> training_log.Evaluation:
  return training_log.Evaluation(
    loss=-scalars['score'],
    scalars=scalars,
    results=[
      training_log.Result(
        'score over the selection tracks',
        scalars['score'],
        {
          'median': scalars['score_median'],
          'least': scalars['score_least'],
        },
      ),
      training_log.Result('share of laps completed', scalars['completed']),
    ],
  )
