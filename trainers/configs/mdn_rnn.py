"""Config of M on the default latents; for the paper, see `mdn_rnn_paper.py`."""

from typing import Annotated

import ml_collections
import pydantic
from trainers.configs import base


class Config(base.SupervisedConfig):
  """Hyperparameters of M."""

  dataset: str = 'carracing_latents/default'
  """Several ones: `A+B`."""
  batch_size: base.Count = 32
  """Windows."""
  window_steps: base.Count = 128
  """Transitions per window."""

  hidden_size: base.Size = 256
  num_mixtures: Annotated[int, pydantic.Field(ge=1, le=1000)] = 5
  per_dimension: bool = False
  """True: a mixture per dimension (paper)."""
  predict_outcomes: bool = True
  """Also predict reward and termination."""

  learning_rate: base.LearningRate = 3e-3
  max_gradient_norm: base.NotNegative = 1.0
  """0: gradients are not clipped."""
  num_steps: base.Steps = 1000


def get_config() -> ml_collections.ConfigDict:
  return base.config_dict(Config())
