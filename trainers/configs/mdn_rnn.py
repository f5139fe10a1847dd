"""Config of M on the default latents; for the paper, see `mdn_rnn_paper.py`."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.seed = 0

  # Data.
  config.dataset = 'carracing_latents/default'  # Several ones: `A+B`.
  config.batch_size = 32  # Windows.
  config.window_steps = 128  # Transitions per window.

  # Model.
  config.hidden_size = 256
  config.num_mixtures = 5
  config.per_dimension = False  # True: a mixture per dimension (paper).
  config.predict_outcomes = True  # Also predict reward and termination.
  config.dtype = 'float32'  # For matrix products; bfloat16 for GPUs and TPUs.

  # Optimisation.
  config.learning_rate = 3e-3
  config.warmup_steps = 50  # Steps of learning rate growth from 0.
  config.cosine_decay = True  # Decay the learning rate to 0 in the last step.
  config.ema_decay = 0.0  # Of the exported parameter average; 0: no average.
  config.max_gradient_norm = 1.0  # 0: gradients are not clipped.
  config.num_steps = 1000

  # Cadence, in steps.
  config.log_every_steps = 50
  config.eval_every_steps = 500
  config.checkpoint_every_steps = 500
  config.early_stop_evaluations = 0  # Patience, in evaluations; 0: never.
  return config
