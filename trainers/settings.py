"""Validates the config of a trainer before anything is computed."""

from collections.abc import Sequence
from typing import Annotated, Literal

from carracing_data import json_documents
from carracing_data import prepared_dataset
import jax
import ml_collections
import pydantic
from trainers import run_documents

# Larger numbers are typos: no machine has the memory or the time for them.
Count = Annotated[int, pydantic.Field(ge=1, le=100_000)]
Steps = Annotated[int, pydantic.Field(ge=1, le=1_000_000_000)]
Size = Annotated[int, pydantic.Field(ge=1, le=16_384)]
NotNegative = Annotated[float, pydantic.Field(ge=0)]
Share = Annotated[float, pydantic.Field(ge=0, le=1)]


class Settings(json_documents.Document):
  """Settings of every run; see `trainers/configs`."""

  seed: Annotated[int, pydantic.Field(ge=0, lt=2**32)]
  num_steps: Steps
  log_every_steps: Steps
  eval_every_steps: Steps
  checkpoint_every_steps: Steps


class LoopSettings(Settings):
  """Settings of a run of `loop.train`."""

  dataset: str
  batch_size: Count
  dtype: Literal['float32', 'bfloat16']
  learning_rate: NotNegative
  warmup_steps: Annotated[int, pydantic.Field(ge=0, le=1_000_000_000)]
  cosine_decay: bool
  max_gradient_norm: NotNegative
  ema_decay: Share
  early_stop_evaluations: Annotated[int, pydantic.Field(ge=0, le=1_000_000)]


class VAESettings(LoopSettings):
  """Settings of V."""

  latent_size: Size
  free_nats: NotNegative
  kl_weight: NotNegative
  eval_frames: Count


class MDNRNNSettings(LoopSettings):
  """Settings of M."""

  window_steps: Count
  hidden_size: Size
  num_mixtures: Annotated[int, pydantic.Field(ge=1, le=1000)]
  per_dimension: bool
  predict_outcomes: bool


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
    message = f'invalid config: {json_documents.explain(error)}'
    kinds = {finding['type'] for finding in error.errors()}
    if kinds & {'missing', 'extra_forbidden'}:
      message += '; is --config=FILE a config of this trainer?'
    raise run_documents.RunError(message) from None
  devices = jax.device_count()
  if issubclass(schema, LoopSettings) and config.batch_size % devices:
    raise run_documents.RunError(
      'invalid config: batch_size:'
      f' {config.batch_size} is not divisible by {devices} devices'
    )


def check_window(
  config: ml_collections.ConfigDict,
  latents: Sequence[prepared_dataset.Dataset],
) -> None:
  """Checks that windows fit into the longest episode.

  Raises:
    run_documents.RunError: the window is longer than every episode.
  """
  longest = max(
    max(split.episode_steps)
    for dataset in latents
    for split in dataset.splits.values()
  )
  if config.window_steps > longest - 1:
    raise run_documents.RunError(
      f'invalid config: window_steps: the longest episode of'
      f' {config.dataset} has {longest - 1} transitions, fewer than'
      f' {config.window_steps}'
    )
