"""Config of C by soft actor-critic; the paper: `controller_evolution.py`."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.method = 'actor_critic'
  config.seed = 0

  # What C sees: `z,h`, or `z` alone.
  config.features = 'z,h'

  # Driving. A step of the run drives `drive_steps` steps with every car.
  config.simulator = 'sketched'
  config.num_cars = 16
  config.drive_steps = 32
  config.stuck_steps = 80  # Steps without a new tile that end an episode.
  config.noise_correlation = 0.8  # Of exploration noise, over a step.
  config.warmup_steps = 10  # Without learning, to standardise the features.
  # Starts of episodes: share at the start of the track; elsewhere the standard
  # deviations of offset (metres) and angle (radians).
  config.start_share = 0.3
  config.start_offset = 3.0
  config.start_angle = 0.25

  # Reward.
  config.grass_penalty = 2.0  # Per step with all four wheels on grass.
  config.speed_penalty = 1.2  # Per step at speed 100, with its square.
  config.missed_penalty = 3.0  # Per tile left behind untouched.
  config.reward_scale = 0.1

  # Learning.
  config.privileged_critics = True  # Critics see the simulator's state.
  config.critic_size = 256  # Units of a hidden layer.
  config.replay_steps = 300_000  # Steps in the replay buffer.
  config.batch_size = 256
  config.updates_per_step = 128
  config.discount = 0.99
  config.return_steps = 3  # Of n-step returns.
  config.learning_rate = 3e-4
  # The learning rate falls to 0; what is there then is exported.
  config.cosine_decay = True
  config.initial_temperature = 0.1
  config.target_entropy = -3.0
  config.target_ema_decay = (
    0.995  # Of the averages of the critics, the targets.
  )
  config.ema_decay = 0.999  # Of the exported average of the actor.
  config.num_steps = 600  # 307,200 steps of driving, 75,520 updates.

  # Cadence, in steps of the run.
  config.log_every_steps = 10
  config.eval_every_steps = 100
  config.selection_tracks = 32
  config.checkpoint_every_steps = 50
  return config
