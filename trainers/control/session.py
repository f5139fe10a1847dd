"""One start of a controller's run, for the training loop."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import functools
from pathlib import Path
import signal
import sys
from typing import Any, ClassVar, NoReturn, Protocol

from absl import logging
from carracing_rollouts import scores
from carracing_rollouts import tracks
from clu import metrics
import jax
import ml_collections
from models import controller
from models import world_model
import numpy as np
from trainers import checkpoints
from trainers import run_documents
from trainers import run_folder
from trainers import session as session_lib
from trainers import settings as common_settings
from trainers import training_log
from trainers.control import actor_critic_learner
from trainers.control import dream_learner
from trainers.control import driving
from trainers.control import evolution_learner
from trainers.control import fleet as fleet_lib
from trainers.control import practice
from trainers.control import settings


@contextlib.contextmanager
def opened(
  config: ml_collections.ConfigDict,
  workdir: Path,
  make_learner: Callable[[], 'Learner'],
  model: world_model.WorldModel,
  c: controller.Controller,
  export: run_folder.Export,
  saved: checkpoints.Checkpoints,
) -> Iterator['Session']:
  """Continues a run from its newest checkpoint, or begins it.

  Args:
    config: see `trainers/configs/controller.py`.
    workdir: folder of the run.
    make_learner: starts the method.
    model: V and M.
    c: the controller to find.
    export: name, config and provenance of the exported weights.
    saved: checkpoints of the run.

  Yields:
    The session; see `loop.Session`.

  Raises:
    errors.UserError: see `checkpoints.Checkpoints.restore`.
  """
  with contextlib.closing(make_learner()) as learner:
    yield Session(config, workdir, learner, model, c, export, saved)


class Learner(Protocol):
  """A method that finds a controller.

  Attributes:
    SETTINGS: schema of its config.
    SHOWN_METRIC: metric to show with the progress.
    SCALARS: names of what `scalars` returns.
    fleet: the cars, which others may drive before `begin` is called.
    examples_per_step: number of examples in a step, to measure the speed.
    saved: tree of arrays from which `restore` continues.
    params: the controller as it would be deployed, parameters of
      `controller.Controller`.
  """

  SETTINGS: ClassVar[type[settings.ControllerSettings]]
  SHOWN_METRIC: ClassVar[str]
  SCALARS: ClassVar[tuple[str, ...]]

  fleet: fleet_lib.Fleet
  examples_per_step: int

  @property
  def saved(self) -> Mapping[str, Any]: ...

  @property
  def params(self) -> Mapping[str, Any]: ...

  def restore(self, saved: Mapping[str, Any], step: int) -> None:
    """Continues after a step from what was saved then."""
    ...

  def begin(self, step: int) -> None:
    """Starts new episodes after a step."""
    ...

  def take_step(self, step: int) -> bool:
    """Runs a step; returns whether its loss is finite."""
    ...

  def collect(self) -> tuple[metrics.Collection | None, Mapping[str, float]]:
    """Returns the metrics since the last call: on the device, and others.

    The former are None if there was nothing to measure.
    """
    ...

  def scalars(self) -> Mapping[str, float]:
    """Returns what an evaluation reports beside the scores."""
    ...

  def close(self) -> None:
    """Stops the simulators."""
    ...


# Each takes the config, the world model and the controller; `DreamLearner` also
# start states.
METHODS: dict[str, Any] = {
  'actor_critic': actor_critic_learner.ActorCriticLearner,
  'dream': dream_learner.DreamLearner,
  'evolution': evolution_learner.EvolutionLearner,
}


def check(config: ml_collections.ConfigDict) -> None:
  """Validates the config of a controller.

  Raises:
    run_documents.RunError: a value is invalid; the message names it.
  """
  name = config.get('method')
  method = METHODS.get(name) if isinstance(name, str) else None
  schema = settings.UnknownMethodSettings if method is None else method.SETTINGS
  common_settings.check(config, schema)


class Session:
  """The mutable state of one start of a run; see `loop.Session`.

  Cars start new episodes after every checkpoint and every evaluation, so that
  a run continues from a checkpoint as if it had not been stopped.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    workdir: Path,
    learner: Learner,
    model: world_model.WorldModel,
    c: controller.Controller,
    export: run_folder.Export,
    saved: checkpoints.Checkpoints,
  ):
    self.workdir, self.export = workdir, export
    self._config, self._learner, self._checkpoints = config, learner, saved
    self._model, self._c = model, c
    nothing = np.zeros((3, config.selection_tracks))
    names = {*_scalars(*nothing), *learner.SCALARS}
    self._best = {
      'params': learner.params,
      'step': np.array(0),
      'scalars': {name: np.array(-np.inf) for name in names},
    }
    items, self.step = saved.restore({'run': self.saved})
    self._saved_step = self.step
    if self.step:
      self._best = jax.tree.map(np.array, items['run']['best'])
      learner.restore(items['run']['learner'], self.step)
    self._must_begin = True

  @functools.cached_property  # Opens files, so not before it is needed.
  def log(self) -> training_log.TrainingLog:
    return training_log.TrainingLog(
      self.workdir,
      self._learner.examples_per_step,
      self._config.num_steps,
      self._learner.SHOWN_METRIC,
    )

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
        ' are kept; try a new --workdir with other settings'
      )
    return finite

  def collect_metrics(self) -> None:
    self.log.end_interval(self.step, *self._learner.collect())

  def evaluate(self) -> training_log.Evaluation:
    with self.log.paused():
      params = self._learner.params
      driven = driving.score(
        self._learner.fleet,
        self._c,
        self._model,
        driving.linear,
        params,
        tracks.SELECTION[: self._config.selection_tracks],
      )
      scalars = {**_scalars(*driven), **self._learner.scalars()}
      evaluation = _evaluation(scalars)
      session_lib.check_evaluation(evaluation, self.step)
      self.log.write(self.step, evaluation)
    self._must_begin = True
    # A few tracks say less than a learning rate that has fallen to 0.
    decays = self._config.get('cosine_decay', False)
    if decays or scalars['score'] > self._best['scalars']['score']:
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


def _scalars(
  returns: np.ndarray,
  steps: np.ndarray,
  outcome: np.ndarray,
) -> dict[str, float]:
  completed = outcome == practice.Outcome.COMPLETED
  summary = scores.summarize(returns, completed).model_dump(exclude_none=True)
  return {
    'score': summary.pop('mean'),
    **{name: float(value) for name, value in summary.items()},
    'episode_steps': float(steps.mean()),
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
          'median': scalars['median'],
          'least': scalars['least'],
        },
      ),
      training_log.Result('share of laps completed', scalars['laps_completed']),
    ],
  )
