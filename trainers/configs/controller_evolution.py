"""Config of C by evolution, after Ha & Schmidhuber, "World Models" (2018).

The paper evolves 64 candidates with CMA-ES, each on 16 tracks in a generation,
for 1,800 generations. One track, the same for all candidates, learns faster per
step; and of the covariance only the diagonal, which is all that can be learnt
of 867 numbers in so few generations.
"""

from typing import Annotated, Literal

import ml_collections
import pydantic
from trainers.configs import base
from trainers.configs import controller

MAX_GENERATIONS = 10_000


class Config(controller.ControllerConfig):
  """Hyperparameters of C by evolution; a step of the run is a generation."""

  method: Literal['evolution'] = 'evolution'

  # Sep-CMA-ES selects the better half of the candidates.
  num_cars: Annotated[int, pydantic.Field(ge=4, le=1000)] = 32
  """Candidates in a generation."""
  tracks_per_step: base.Count = 1
  """Tracks on which each candidate drives."""
  stuck_steps: controller.StuckSteps = 60
  """Steps without a new tile that end an episode."""

  initial_deviation: Annotated[float, pydantic.Field(gt=0, le=100)] = 0.1
  """Of the weights for standardised features."""
  num_steps: Annotated[int, pydantic.Field(ge=1, le=MAX_GENERATIONS)] = 200

  log_every_steps: base.Steps = 5
  eval_every_steps: base.Steps = 40
  checkpoint_every_steps: base.Steps = 20


def get_config() -> ml_collections.ConfigDict:
  return base.config_dict(Config())
