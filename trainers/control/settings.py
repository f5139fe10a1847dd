"""Schemas of the configs of a controller; see `trainers/configs`."""

from typing import Annotated, Literal

from carracing_rollouts import environment
import pydantic
from trainers import settings

MAX_GENERATIONS = 10_000
_MAX_SAMPLES = 1_000_000  # In a step: about 1 GB.
_StuckSteps = Annotated[int, pydantic.Field(ge=0, le=1000)]
# Larger numbers are typos, and would be infinite in float32 or in the game.
_Bounded = Annotated[float, pydantic.Field(ge=0, le=1000)]
_CriticSize = Annotated[int, pydantic.Field(ge=1, le=4096)]
_Discount = Annotated[float, pydantic.Field(ge=0, lt=1)]
_EntropyWeight = Annotated[float, pydantic.Field(gt=0, le=1)]
_TargetEntropy = Annotated[float, pydantic.Field(ge=-100, le=100)]


class ControllerSettings(settings.Settings):
  """Settings of C, found by any method."""

  features: Literal['z,h', 'z']
  simulator: Annotated[
    str, pydantic.AfterValidator(environment.check_simulator)
  ]
  num_cars: Annotated[int, pydantic.Field(ge=1, le=1000)]
  selection_tracks: Annotated[int, pydantic.Field(ge=1, le=1000)]

  @pydantic.model_validator(mode='after')
  def _check_selection(self) -> 'ControllerSettings':
    if self.selection_tracks % self.num_cars:
      raise ValueError(
        f'num_cars: {self.num_cars} does not divide'
        f' selection_tracks={self.selection_tracks}'
      )
    return self


class EvolutionSettings(ControllerSettings):
  """Settings of C, found by evolution."""

  method: Literal['evolution']
  num_steps: Annotated[int, pydantic.Field(ge=1, le=MAX_GENERATIONS)]
  # Sep-CMA-ES selects the better half of the candidates.
  num_cars: Annotated[int, pydantic.Field(ge=4, le=1000)]
  stuck_steps: _StuckSteps
  tracks_per_step: settings.Count
  initial_deviation: Annotated[float, pydantic.Field(gt=0, le=100)]


class ActorCriticSettings(ControllerSettings):
  """Settings of C, found by soft actor-critic."""

  method: Literal['actor_critic']
  drive_steps: settings.Count
  noise_correlation: Annotated[float, pydantic.Field(ge=0, lt=1)]
  warmup_steps: settings.Steps
  stuck_steps: _StuckSteps
  start_share: settings.Share
  start_offset: _Bounded
  start_angle: _Bounded
  grass_penalty: _Bounded
  speed_penalty: _Bounded
  missed_penalty: _Bounded
  reward_scale: _Bounded
  privileged_critics: bool
  critic_size: _CriticSize
  replay_steps: Annotated[int, pydantic.Field(ge=1, le=10_000_000)]
  batch_size: settings.Count
  updates_per_step: settings.Count
  discount: _Discount
  return_steps: Annotated[int, pydantic.Field(ge=1, le=100)]
  learning_rate: settings.NotNegative
  cosine_decay: bool
  initial_temperature: _EntropyWeight
  target_entropy: _TargetEntropy
  target_ema_decay: settings.Share
  ema_decay: settings.Share

  @pydantic.model_validator(mode='after')
  def _check_replay(self) -> 'ActorCriticSettings':
    if self.updates_per_step * self.batch_size > _MAX_SAMPLES:
      raise ValueError(
        f'updates_per_step: {self.updates_per_step} batches of'
        f' {self.batch_size} are more than {_MAX_SAMPLES:,} samples'
      )
    # The first transitions are sampled after the warm-up; the newest
    # `return_steps` rows have no next state yet.
    rows = self.replay_steps // self.num_cars
    for name, available in (
      ('replay_steps', rows),
      ('warmup_steps', self.warmup_steps * self.drive_steps),
    ):
      if available <= self.return_steps:
        raise ValueError(
          f'{name}: {getattr(self, name)} is too small for'
          f' return_steps={self.return_steps}'
        )
    if rows < self.drive_steps:
      raise ValueError(
        f'replay_steps: {self.replay_steps} is too small for'
        f' drive_steps={self.drive_steps} with {self.num_cars} cars'
      )
    return self


class DreamSettings(ControllerSettings):
  """Settings of C, found by actor-critic in the dream."""

  method: Literal['dream']
  num_dreams: settings.Count
  dream_steps: Annotated[int, pydantic.Field(ge=1, le=1000)]
  dream_temperature: Annotated[float, pydantic.Field(gt=0, le=10)]
  gas_penalty: _Bounded
  grass_penalty: _Bounded
  reward_scale: _Bounded
  critic_size: _CriticSize
  updates_per_step: settings.Count
  discount: _Discount
  trace_decay: settings.Share
  learning_rate: settings.NotNegative
  cosine_decay: Literal[True]
  critic_learning_rate: settings.NotNegative
  initial_temperature: _EntropyWeight
  target_entropy: _TargetEntropy
  target_ema_decay: settings.Share
  ema_decay: settings.Share

  @pydantic.model_validator(mode='after')
  def _check_dreams(self) -> 'DreamSettings':
    if self.num_dreams * self.dream_steps > _MAX_SAMPLES:
      raise ValueError(
        f'num_dreams: {self.num_dreams} dreams of {self.dream_steps} steps are'
        f' more than {_MAX_SAMPLES:,} steps'
      )
    return self


class UnknownMethodSettings(ControllerSettings):
  """Settings of a method that does not exist."""

  method: Literal['actor_critic', 'dream', 'evolution']
