"""Config of C by actor-critic in the dream: no step is simulated to learn."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.method = 'dream'
  config.seed = 0

  # What C sees: `z,h`, or `z` alone.
  config.features = 'z,h'

  # Dreams. They start at the states that were exported with M.
  config.num_dreams = 96
  config.dream_steps = 32
  config.dream_temperature = 1.15  # Of M's samples.

  # Reward. Fast driving is outside of M's first data, and M makes it up.
  config.gas_penalty = 1.0  # Per step at full gas; with the square of the gas.
  # Per step with grass on both sides of the car, as V shows it.
  config.grass_penalty = 2.0
  config.reward_scale = 0.1

  # Learning.
  config.critic_size = 256  # Units of a hidden layer.
  config.updates_per_step = 10
  config.discount = 0.995  # Braking in time pays a hundred steps later.
  config.trace_decay = 0.95  # λ of the λ-returns.
  config.learning_rate = 1e-3  # Of the actor.
  # The learning rate falls to a tenth; what is there then is exported.
  config.cosine_decay = True
  config.critic_learning_rate = 5e-4
  config.initial_temperature = 0.05  # Weight of the entropy.
  config.target_entropy = -2.0
  config.target_ema_decay = 0.98  # Of the average of the critic, the target.
  config.ema_decay = 0.995  # Of the exported average of the actor.
  config.num_steps = 122  # 1,220 updates.

  # Evaluations drive; what they find changes nothing.
  config.simulator = 'sketched'
  config.num_cars = 16
  config.selection_tracks = 32

  # Cadence, in steps of the run.
  config.log_every_steps = 10
  config.eval_every_steps = 122
  config.checkpoint_every_steps = 20
  return config
