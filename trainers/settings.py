"""Validates the config of a trainer before anything is computed."""

from typing import Annotated, Literal

from carracing_data import documents
from carracing_rollouts import environment
import jax
import ml_collections
import pydantic
import pydantic_core
import tensorflow_datasets as tfds
from trainers import run_documents

# Larger numbers are typos: no machine has the memory or the time for them.
_Count = Annotated[int, pydantic.Field(ge=1, le=100_000)]
_Steps = Annotated[int, pydantic.Field(ge=1, le=1_000_000_000)]
_Size = Annotated[int, pydantic.Field(ge=1, le=16_384)]
_NotNegative = Annotated[float, pydantic.Field(ge=0)]
_Share = Annotated[float, pydantic.Field(ge=0, le=1)]


def _check_simulator(name: str) -> str:
  if name not in environment.SIMULATORS:
    raise pydantic_core.PydanticCustomError(
      'simulator', f'a simulator is one of {", ".join(environment.SIMULATORS)}'
    )
  return name


class Settings(documents.Document):
  """Settings of every run; see `trainers/configs`."""

  seed: Annotated[int, pydantic.Field(ge=0, lt=2**32)]
  num_steps: _Steps
  log_every_steps: _Steps
  eval_every_steps: _Steps
  checkpoint_every_steps: _Steps


class LoopSettings(Settings):
  """Settings of a run of `loop.train`."""

  dataset: str
  batch_size: _Count
  dtype: Literal['float32', 'bfloat16']
  learning_rate: _NotNegative
  warmup_steps: Annotated[int, pydantic.Field(ge=0, le=1_000_000_000)]
  cosine_decay: bool
  max_gradient_norm: _NotNegative
  ema_decay: _Share
  early_stop_evaluations: Annotated[int, pydantic.Field(ge=0, le=1_000_000)]


class VAESettings(LoopSettings):
  """Settings of V."""

  latent_size: _Size
  free_nats: _NotNegative
  kl_weight: _NotNegative
  eval_frames: _Count


class MDNRNNSettings(LoopSettings):
  """Settings of M."""

  window_steps: _Count
  hidden_size: _Size
  num_mixtures: Annotated[int, pydantic.Field(ge=1, le=1000)]
  per_dimension: bool
  predict_outcomes: bool


class ControllerSettings(Settings):
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
  tracks_per_step: _Count
  initial_deviation: Annotated[float, pydantic.Field(gt=0)]


class ActorCriticSettings(ControllerSettings):
  """Settings of C, found by soft actor-critic."""

  method: Literal['actor_critic']
  drive_steps: _Count
  noise_memory: Annotated[float, pydantic.Field(ge=0, lt=1)]
  warmup_steps: _Steps
  start_share: _Share
  start_offset: _NotNegative
  start_angle: _NotNegative
  start_speed: _NotNegative
  grass_penalty: _NotNegative
  speed_penalty: _NotNegative
  reward_scale: _NotNegative
  privileged_critics: bool
  critic_size: _Size
  replay_steps: Annotated[int, pydantic.Field(ge=1, le=100_000_000)]
  batch_size: _Count
  updates_per_step: _Count
  discount: Annotated[float, pydantic.Field(ge=0, lt=1)]
  return_steps: Annotated[int, pydantic.Field(ge=1, le=100)]
  learning_rate: _NotNegative
  cosine_decay: bool
  initial_temperature: Annotated[float, pydantic.Field(gt=0)]
  target_entropy: float
  target_speed: _Share
  average_speed: _Share


def check(config: ml_collections.ConfigDict, schema: type[Settings]) -> None:
  """Validates a config without the data.

  Args:
    config: config of the run.
    schema: schema of the config.

  Raises:
    run_documents.RunError: a value is invalid; the message names it.
  """
  try:
    schema.model_validate(config.to_dict())
  except pydantic.ValidationError as error:
    raise run_documents.RunError(
      f'invalid config: {documents.explain(error)}'
    ) from None
  devices = jax.device_count()
  if config.get('batch_size', devices) % devices:
    raise run_documents.RunError(
      'invalid config: batch_size:'
      f' {config.batch_size} is not divisible by {devices} devices'
    )


def check_window(
  config: ml_collections.ConfigDict, latents: tfds.core.DatasetBuilder
) -> None:
  """Checks that windows fit into the longest episode.

  Raises:
    run_documents.RunError: the window is longer than every episode.
  """
  longest = max(
    max(split['episode_steps'])
    for split in latents.info.metadata['splits'].values()
  )
  if config.window_steps > longest - 1:
    raise run_documents.RunError(
      f'invalid config: window_steps: the longest episode of'
      f' {config.dataset} has {longest - 1} transitions, fewer than'
      f' {config.window_steps}'
    )
