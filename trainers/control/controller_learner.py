"""What the three learners of C share: evaluation on the selection tracks."""

import abc
from collections.abc import Mapping
import functools
from typing import Any

from carracing_rollouts import scores
from carracing_rollouts import tracks
from models import controller
from models import world_model
import numpy as np
from trainers import loop
from trainers import run_documents
from trainers import training_log
from trainers.configs import controller as controller_config
from trainers.control import driving
from trainers.control import fleet as fleet_lib
from trainers.control import practice


class ControllerLearner(loop.Learner):
  """A method that finds a controller.

  Cars start new episodes after every checkpoint and every evaluation, so that
  a run continues from a checkpoint as if it had not been stopped.
  """

  stops_anywhere: bool = False

  def __init__(
    self,
    config: controller_config.ControllerConfig,
    model: world_model.WorldModel,
    c: controller.Controller,
    rules: practice.Rules | None = None,
  ):
    """Keeps what the cars need, which start when they are first driven.

    Without rules of practice, they only drive tracks.
    """
    self._num_cars = config.num_cars
    self._rules = rules or practice.Rules(simulator=config.simulator)
    self._selection_tracks = tracks.SELECTION[: config.selection_tracks]
    self._model, self._c = model, c

  @functools.cached_property
  def fleet(self) -> fleet_lib.Fleet:
    """The cars."""
    return fleet_lib.Fleet(self._num_cars, self._rules)

  def close(self) -> None:
    if 'fleet' in vars(self):
      self.fleet.close()

  @abc.abstractmethod
  def scalars(self) -> Mapping[str, float]:
    """Returns what an evaluation reports beside the scores."""

  def evaluate(self) -> training_log.Evaluation:
    """Drives the selection tracks; the cars' own episodes end."""
    returns, steps, outcome = driving.score(
      self.fleet,
      self._c,
      self._model,
      driving.linear,
      self.params,
      self._selection_tracks,
    )
    completed = outcome == practice.Outcome.COMPLETED
    summary = scores.summarize(returns, completed).model_dump(exclude_none=True)
    score = summary.pop('mean')
    beside = {name: summary[name] for name in ('median', 'least')}
    return training_log.Evaluation(
      loss=-score,
      scalars={
        'score': score,
        **{name: float(value) for name, value in summary.items()},
        'episode_steps': float(steps.mean()),
        **self.scalars(),
      },
      results=[
        training_log.Result('score over the selection tracks', score, beside),
        training_log.Result(
          'share of laps completed', summary['laps_completed']
        ),
      ],
    )


def check_finite(values: Any, step: int) -> None:
  """Checks the losses of a step.

  Raises:
    run_documents.RunError: one of them is not finite.
  """
  if not np.isfinite(values).all():
    raise run_documents.RunError(
      f'the loss is NaN or infinite in step {step}. Earlier checkpoints are'
      ' kept; try a new --workdir with other settings'
    )
