"""M on the default latents; `mdn_rnn_paper.py` has the paper's settings."""

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
  config.predict_outcomes = True  # Reward and termination, too.
  config.dtype = 'float32'  # Of matrix products; bfloat16 for GPUs and TPUs.

  # Optimisation.
  config.learning_rate = 3e-3
  config.warmup_steps = 50  # In which the learning rate grows from 0.
  config.cosine_decay = True  # Of the learning rate, to 0 in the last step.
  config.ema_decay = 0.0  # Of the average that is exported; 0: no average.
  config.max_gradient_norm = 1.0
  config.num_steps = 1000

  # Cadence, in steps.
  config.log_every_steps = 50
  config.eval_every_steps = 500
  config.checkpoint_every_steps = 500
  config.early_stop_evaluations = 0  # Without a better one; 0: never stop.
  return config
