"""V as in Ha & Schmidhuber, "World Models" (2018), and its reference code.

Requires the `paper` rollouts of 10,000 episodes. Trains in batches of 100.
"""

import ml_collections
from trainers.configs import vae


def get_config() -> ml_collections.ConfigDict:
  config = vae.get_config()
  config.dataset = 'carracing_rollouts/paper'
  config.batch_size = 100

  config.latent_size = 32
  config.free_nats = 0.5
  config.kl_weight = 1.0

  config.learning_rate = 1e-4
  config.warmup_steps = 0
  config.cosine_decay = False
  config.max_gradient_norm = 0.0
  config.num_steps = 1_000_000  # 11 epochs of 9 million frames.

  config.log_every_steps = 100
  config.eval_every_steps = 10_000
  config.checkpoint_every_steps = 10_000
  return config
