"""Config of V on the default rollouts; for the paper, see `vae_paper.py`."""

import ml_collections
from trainers.configs import base


class Config(base.SupervisedConfig):
  """Hyperparameters of V."""

  dataset: str = 'carracing_rollouts/default'
  """Several ones: `A+B`."""
  batch_size: base.Count = 32
  """Frames."""

  latent_size: base.Size = 32
  free_nats: base.NotNegative = 0.5
  """Nats per latent dimension, 16 in total. Below this the KL has no gradient.
  The KL ends near 16 (16.4), so this acts as a limit, not as a weight. 0: a
  plain VAE."""
  kl_weight: base.NotNegative = 1.0
  """The β of a β-VAE."""

  learning_rate: base.LearningRate = 1e-3
  max_gradient_norm: base.NotNegative = 0.0
  """0: gradients are not clipped."""
  num_steps: base.Steps = 3000
  """3.6 epochs of the default dataset."""
  eval_frames: base.Count = 3000
  """Maximum number of validation frames, spread over the split."""


def get_config() -> ml_collections.ConfigDict:
  return base.config_dict(Config())
