"""V on the default rollouts; `vae_paper.py` has the settings of the paper."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.seed = 0

  # Data.
  config.dataset = 'carracing_rollouts/default'
  config.batch_size = 32  # Frames.

  # Model and loss.
  config.latent_size = 32
  # Per latent dimension, 16 in all: below that the KL has no gradient. It ends
  # near there (16.4), so it acts as a limit, not as a weight. 0: a plain VAE.
  config.free_nats = 0.5
  config.kl_weight = 1.0  # The β of a β-VAE.
  config.dtype = 'float32'  # Of the convolutions; bfloat16 for GPUs and TPUs.

  # Optimisation.
  config.learning_rate = 1e-3
  config.warmup_steps = 50  # In which the learning rate grows from 0.
  config.cosine_decay = True  # Of the learning rate, to 0 in the last step.
  config.max_gradient_norm = 0.0  # 0: gradients are not clipped.
  config.ema_decay = 0.0  # Of the average that is exported; 0: no average.
  config.num_steps = 3000  # 3.6 epochs of the default dataset.

  # Cadence, in steps.
  config.log_every_steps = 50
  config.eval_every_steps = 500
  config.eval_frames = 3000  # At most, spread over the validation split.
  config.checkpoint_every_steps = 500
  config.early_stop_evaluations = 0  # Without a better one; 0: never stop.
  return config
