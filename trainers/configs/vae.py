"""Config of V on the default rollouts; for the paper, see `vae_paper.py`."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.seed = 0

  # Data.
  config.dataset = 'carracing_rollouts/default'
  config.batch_size = 32  # Frames.

  # Model and loss.
  config.latent_size = 32
  # Nats per latent dimension, 16 in total. Below this the KL has no gradient.
  # The KL ends near 16 (16.4), so this acts as a limit, not as a weight. 0: a
  # plain VAE.
  config.free_nats = 0.5
  config.kl_weight = 1.0  # The β of a β-VAE.
  config.dtype = 'float32'  # For convolutions; bfloat16 for GPUs and TPUs.

  # Optimisation.
  config.learning_rate = 1e-3
  config.warmup_steps = 50  # Steps of learning rate growth from 0.
  config.cosine_decay = True  # Decay the learning rate to 0 in the last step.
  config.max_gradient_norm = 0.0  # 0: gradients are not clipped.
  config.ema_decay = 0.0  # Of the exported parameter average; 0: no average.
  config.num_steps = 3000  # 3.6 epochs of the default dataset.

  # Cadence, in steps.
  config.log_every_steps = 50
  config.eval_every_steps = 500
  config.eval_frames = 3000  # Maximum; spread over the validation split.
  config.checkpoint_every_steps = 500
  config.early_stop_evaluations = 0  # Patience, in evaluations; 0: never.
  return config
