"""Updates of the soft actor-critic of stable-baselines3, if it is installed.

Its critics see what the actor sees, and it draws its batches from a buffer in
every update; sizes and settings are otherwise ours.
"""

from carracing_data import processes
from carracing_data import rlds_steps
import gymnasium
import numpy as np
import stable_baselines3
from stable_baselines3.common import logger
from tools.benchmark import contest
import torch
from trainers.configs import controller as controller_config


class _Features(gymnasium.Env):
  """The spaces of a controller of features; it is never stepped."""

  def __init__(self, num_features: int):
    self.observation_space = gymnasium.spaces.Box(-10, 10, (num_features,))
    self.action_space = gymnasium.spaces.Box(
      rlds_steps.ACTION_LOW, rlds_steps.ACTION_HIGH
    )


def updates(
  config: controller_config.Config, num_features: int
) -> contest.Work:
  """Prepares updates on random transitions."""
  torch.set_num_threads(processes.num_cores())
  learner = stable_baselines3.SAC(
    'MlpPolicy',
    _Features(num_features),
    learning_rate=config.learning_rate,
    buffer_size=10 * config.batch_size,
    batch_size=config.batch_size,
    gamma=config.discount,
    tau=1 - config.target_ema_decay,
    target_entropy=config.target_entropy,
    policy_kwargs={'net_arch': {'pi': [], 'qf': [config.critic_size] * 2}},
    seed=0,
    device='cpu',
  )
  learner.set_logger(logger.configure(format_strings=[]))
  rng = np.random.default_rng(0)
  for _ in range(10 * config.batch_size):
    learner.replay_buffer.add(
      rng.standard_normal(num_features, np.float32),
      rng.standard_normal(num_features, np.float32),
      learner.action_space.sample(),
      np.float32(rng.standard_normal()),
      np.array([False]),
      [{}],
    )

  def work() -> float:
    learner.train(config.updates_per_step, config.batch_size)
    return config.updates_per_step

  return work
