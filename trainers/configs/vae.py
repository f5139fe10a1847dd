"""V on the default rollouts dataset.

Ha & Schmidhuber, "World Models" (2018), and its reference implementation.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.seed = 0

  # Data.
  config.dataset = 'carracing_rollouts/default'
  config.batch_size = 100  # Frames.

  # Model and loss.
  config.latent_size = 32
  config.free_nats = 0.5  # Per latent dimension.
  config.dtype = 'float32'  # Of the convolutions; bfloat16 for GPUs and TPUs.

  # Optimisation.
  config.learning_rate = 1e-4
  config.num_steps = 3000  # Ten epochs of the default dataset.

  # Cadence, in steps.
  config.log_every_steps = 50
  config.eval_every_steps = 500
  config.eval_batches = 20
  config.checkpoint_every_steps = 500
  return config
