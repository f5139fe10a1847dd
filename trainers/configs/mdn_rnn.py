"""M on the latents of the default rollouts dataset.

Ha & Schmidhuber, "World Models" (2018), and its reference implementation.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.seed = 0

  # Data.
  config.dataset = 'carracing_latents/default'
  config.batch_size = 32  # Windows.
  config.window_steps = 128  # Transitions in a window.

  # Model.
  config.hidden_size = 256
  config.num_mixtures = 5
  config.per_dimension = False  # True: the paper's mixture for each dimension.

  # Optimisation.
  config.learning_rate = 1e-3
  config.max_gradient_norm = 1.0
  config.num_steps = 2000

  # Cadence, in steps.
  config.log_every_steps = 50
  config.eval_every_steps = 500
  config.checkpoint_every_steps = 500
  return config
