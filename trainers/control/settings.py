"""Schemas of the configs of a controller; see `trainers/configs`."""

from typing import Annotated, Literal

from carracing_rollouts import environment
import ml_collections
import pydantic
import pydantic_core
from trainers import settings


def _check_simulator(name: str) -> str:
  if name not in environment.SIMULATORS:
    raise pydantic_core.PydanticCustomError(
      'simulator', f'a simulator is one of {", ".join(environment.SIMULATORS)}'
    )
  return name


class ControllerSettings(settings.Settings):
  """Settings of C, found by any method."""

  features: Literal['z,h', 'z']
  simulator: Annotated[str, pydantic.AfterValidator(_check_simulator)]
  num_cars: Annotated[int, pydantic.Field(ge=1, le=1000)]
  stuck_steps: Annotated[int, pydantic.Field(ge=0, le=1000)]
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
  # Sep-CMA-ES selects the better half of the candidates.
  num_cars: Annotated[int, pydantic.Field(ge=4, le=1000)]
  tracks_per_step: settings.Count
  initial_deviation: Annotated[float, pydantic.Field(gt=0)]


class ActorCriticSettings(ControllerSettings):
  """Settings of C, found by soft actor-critic."""

  method: Literal['actor_critic']
  drive_steps: settings.Count
  noise_memory: Annotated[float, pydantic.Field(ge=0, lt=1)]
  warmup_steps: settings.Steps
  start_share: settings.Share
  start_offset: settings.NotNegative
  start_angle: settings.NotNegative
  start_speed: settings.NotNegative
  grass_penalty: settings.NotNegative
  speed_penalty: settings.NotNegative
  missed_penalty: settings.NotNegative
  reward_scale: settings.NotNegative
  privileged_critics: bool
  critic_size: settings.Size
  replay_steps: Annotated[int, pydantic.Field(ge=1, le=100_000_000)]
  batch_size: settings.Count
  updates_per_step: settings.Count
  discount: Annotated[float, pydantic.Field(ge=0, lt=1)]
  return_steps: Annotated[int, pydantic.Field(ge=1, le=100)]
  learning_rate: settings.NotNegative
  cosine_decay: bool
  initial_temperature: Annotated[float, pydantic.Field(gt=0)]
  target_entropy: float
  target_speed: settings.Share
  average_speed: settings.Share

  @pydantic.model_validator(mode='after')
  def _check_replay(self) -> 'ActorCriticSettings':
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


class _UnknownMethodSettings(ControllerSettings):
  """Settings whose method is not one of the others."""

  method: Literal['actor_critic', 'evolution']


_METHODS = {'actor_critic': ActorCriticSettings, 'evolution': EvolutionSettings}


def check(config: ml_collections.ConfigDict) -> None:
  """Validates the config of a controller.

  Raises:
    run_documents.RunError: a value is invalid; the message names it.
  """
  settings.check(
    config, _METHODS.get(config.get('method'), _UnknownMethodSettings)
  )
