"""M as in Ha & Schmidhuber, "World Models" (2018), and its reference code.

Requires latents of the `paper` rollouts. Trains on batches of 100 whole
episodes, with a mixture per latent dimension and a constant learning rate. Two
differences remain: the reference code clips gradients by value, not by norm,
and adds 1 to the bias of the forget gate, which starts at 0 here.
"""

import ml_collections
from trainers.configs import mdn_rnn


def get_config() -> ml_collections.ConfigDict:
  config = mdn_rnn.get_config()
  config.dataset = 'carracing_latents/paper'
  config.batch_size = 100
  config.window_steps = 1000  # A whole episode.

  config.hidden_size = 256
  config.num_mixtures = 5
  config.per_dimension = True
  config.predict_outcomes = False

  config.learning_rate = 1e-3
  config.warmup_steps = 0
  config.cosine_decay = False
  config.max_gradient_norm = 1.0
  config.num_steps = 4000

  config.log_every_steps = 20
  config.eval_every_steps = 200
  config.checkpoint_every_steps = 200
  return config
