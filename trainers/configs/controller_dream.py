"""Config of C by actor-critic in the dream: no step is simulated to learn."""

from typing import Annotated, Literal

import ml_collections
import pydantic
from trainers.configs import base
from trainers.configs import controller


class Config(controller.ControllerConfig):
  """Hyperparameters of C by actor-critic in the dream.

  `simulator`, `num_cars` and `selection_tracks` are of evaluations, which
  drive; what they find changes nothing.
  """

  method: Literal['dream'] = 'dream'

  num_dreams: base.Count = 96
  """They start at the states that were exported with M."""
  dream_steps: Annotated[int, pydantic.Field(ge=1, le=1000)] = 32
  dream_temperature: Annotated[float, pydantic.Field(gt=0, le=10)] = 1.15
  """Of M's samples."""

  gas_penalty: controller.Bounded = 1.0
  """Per step at full gas; with the square of the gas. Fast driving is outside
  of M's first data, and M makes it up."""
  grass_penalty: controller.Bounded = 2.0
  """Per step with grass on both sides of the car, as V shows it."""
  reward_scale: controller.Bounded = 0.1

  critic_size: controller.CriticSize = 256
  """Units of a hidden layer."""
  updates_per_step: base.Count = 10
  discount: controller.Discount = 0.995
  """Braking in time pays a hundred steps later."""
  trace_decay: base.Share = 0.95
  """λ of the λ-returns."""
  learning_rate: base.LearningRate = 1e-3
  """Of the actor."""
  cosine_decay: Literal[True] = True
  """The learning rate falls to a tenth; what is there then is exported."""
  critic_learning_rate: base.LearningRate = 5e-4
  initial_temperature: controller.EntropyWeight = 0.05
  """Weight of the entropy."""
  target_entropy: controller.TargetEntropy = -2.0
  target_ema_decay: base.Share = 0.98
  """Of the average of the critic, the target."""
  ema_decay: base.Share = 0.995
  """Of the exported average of the actor."""
  num_steps: base.Steps = 122
  """1,220 updates."""

  eval_every_steps: base.Steps = 122
  checkpoint_every_steps: base.Steps = 20

  @pydantic.model_validator(mode='after')
  def _check_dreams(self) -> 'Config':
    controller.check_samples(
      self.num_dreams * self.dream_steps,
      f'num_dreams: {self.num_dreams} dreams of {self.dream_steps} steps',
    )
    return self


def get_config() -> ml_collections.ConfigDict:
  return base.config_dict(Config())
