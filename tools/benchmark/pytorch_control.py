"""How C is often trained, in PyTorch, if it is installed.

Driving: one process per core, each with one game, one frame at a time. Updates:
the same as in `trainers.control.actor_critic`, not compiled, like most code.
"""

from collections.abc import Iterable
import copy
import itertools
import math
import multiprocessing
from multiprocessing import connection

from carracing_data import processes
from carracing_rollouts import environment
import cv2
import gymnasium
from gymnasium import wrappers
from models import controller
import numpy as np
from tools.benchmark import contest
from tools.benchmark import control
from tools.benchmark import pytorch
import torch
from torch import nn
from torch.nn import functional
from trainers.configs import controller as controller_config
from trainers.control import driving
from trainers.control import networks
from trainers.control import privileged_observations
from trainers.control import replay_buffer

_NUM_FEATURES = 32 + 256


def drive(
  simulator: str, num_steps: int = environment.MAX_STEPS
) -> contest.Work:
  """Prepares driving: a turn is at least one episode in each process.

  Args:
    simulator: `stock`, or a key of `environment.SIMULATORS`.
    num_steps: steps of each process in a turn.
  """
  context = multiprocessing.get_context('spawn')
  pipes = []
  with processes.bare_main():
    for seed in range(processes.num_cores()):
      pipe, theirs = context.Pipe()
      context.Process(
        target=_drive, args=(theirs, simulator, seed), daemon=True
      ).start()
      theirs.close()  # So that its end is noticed here.
      pipes.append(pipe)

  def work() -> float:
    for pipe in pipes:
      pipe.send(num_steps)
    for pipe in pipes:
      pipe.recv()
    return len(pipes) * num_steps

  return work


@torch.inference_mode()
def _drive(pipe: connection.Connection, simulator: str, seed: int) -> None:
  """Drives whenever it is asked to, until the pipe is closed."""
  torch.set_num_threads(1)
  cv2.setNumThreads(1)
  torch.manual_seed(seed)
  rng = np.random.default_rng(seed)
  vae = pytorch.vae()
  lstm, actor = pytorch.MDNRNN().lstm, Actor()
  if simulator == 'stock':
    game = gymnasium.make('CarRacing-v3')
  else:
    game = environment.SIMULATORS[simulator].GAME()
    game = wrappers.TimeLimit(game, environment.MAX_STEPS)
  frame, _ = game.reset(seed=seed)
  zeros = torch.zeros(1, 1, 256)
  carry = zeros, zeros
  while True:
    try:
      num_steps = pipe.recv()
    except EOFError:
      return
    ended, noise = True, np.zeros(controller.ACTION_SIZE)
    for _ in range(num_steps):
      if ended:
        frame, _ = game.reset()
        carry = zeros, zeros
      small = cv2.resize(frame[:84], (64, 64), interpolation=cv2.INTER_AREA)
      observation = torch.from_numpy(small)[None]
      z, _ = vae.encode(pytorch.to_float(observation, torch.channels_last))
      mean, log_std = actor(torch.cat([z, carry[1][0]], -1))
      # As wild as in the trainer before learning starts.
      noise = driving.continue_noise(noise, driving.WARMUP_CORRELATION, rng)
      scale = driving.WARMUP_SCALE * math.exp(-networks.INITIAL_LOG_STD)
      scaled = torch.from_numpy(scale * noise).float()
      x = torch.tanh(mean + torch.exp(log_std) * scaled)
      action = torch.stack([x[:, 0], (x[:, 1] + 1) / 2, x[:, 2].relu()], -1)
      _, carry = lstm(torch.cat([z, action], -1)[:, None], carry)
      frame, _, terminated, truncated, _ = game.step(action[0].numpy())
      ended = terminated or truncated
    pipe.send(None)


class Actor(nn.Module):
  """Same as `networks.Actor`."""

  def __init__(self):
    super().__init__()
    self.mean = nn.Linear(_NUM_FEATURES, controller.ACTION_SIZE)
    self.log_std = nn.Linear(_NUM_FEATURES, controller.ACTION_SIZE)
    with torch.no_grad():
      self.mean.weight.zero_()
      self.mean.bias.copy_(torch.tensor(networks.INITIAL_BIAS))
      self.log_std.weight.zero_()
      self.log_std.bias.fill_(-0.5)

  def forward(
    self, features: torch.Tensor
  ) -> tuple[torch.Tensor, torch.Tensor]:
    return self.mean(features), self.log_std(features).clamp(-4, 0.5)

  def sample(
    self, features: torch.Tensor, noise: torch.Tensor
  ) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns actions and their log densities."""
    mean, log_std = self(features)
    x = mean + torch.exp(log_std) * noise
    log_prob = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)
    log_slope = 2 * (math.log(2) - x - functional.softplus(-2 * x))
    return torch.tanh(x), (log_prob - log_slope).sum(-1)


class Critic(nn.Sequential):
  """Same as `networks.Critic`."""

  def __init__(self, num_inputs: int, hidden_size: int):
    super().__init__(
      nn.Linear(num_inputs + controller.ACTION_SIZE, hidden_size),
      nn.LayerNorm(hidden_size, elementwise_affine=False),
      nn.ReLU(),
      nn.Linear(hidden_size, hidden_size),
      nn.LayerNorm(hidden_size, elementwise_affine=False),
      nn.ReLU(),
      nn.Linear(hidden_size, 1),
    )


class Learner:
  """Same as `actor_critic.update_once`, with critics that are privileged."""

  def __init__(self, config: controller_config.Config):
    self._config = config
    self.actor = Actor()
    self.average = copy.deepcopy(self.actor)
    self.critics = nn.ModuleList(
      Critic(privileged_observations.SIZE, config.critic_size) for _ in range(2)
    )
    self.targets = copy.deepcopy(self.critics)
    log_temperature = math.log(config.initial_temperature)
    self.log_temperature = torch.tensor(log_temperature, requires_grad=True)
    self._mean = torch.zeros(_NUM_FEATURES)
    self._std = torch.ones(_NUM_FEATURES)

    def adam(
      parameters: Iterable[torch.Tensor], speed: float = 1
    ) -> torch.optim.Adam:
      rate = speed * config.learning_rate
      return torch.optim.Adam(parameters, rate, fused=True)

    self._of_actor = adam(self.actor.parameters())
    self._of_critics = adam(self.critics.parameters())
    self._of_temperature = adam([self.log_temperature], 3)

  def update(self, batch: replay_buffer.Batch, noise: torch.Tensor) -> None:
    """Takes one update.

    Args:
      batch: tensors of a `replay_buffer.Batch`, [B, ...].
      noise: standard normal, float32 [2, B, 3].
    """
    batch = type(batch)(*(x.float() for x in batch))
    temperature = self.log_temperature.exp().detach()
    with torch.no_grad():
      action, log_prob = self.actor.sample(
        self._standardised(batch.next_features), noise[0]
      )
      value = _values(self.targets, batch.next_privileged, action).amin(0)
      value = value - temperature * log_prob
      target = self._config.reward_scale * batch.reward + batch.discount * value
    values = _values(self.critics, batch.privileged, batch.action)
    loss = (((values - target) ** 2).sum(0) * batch.weight).mean()
    _descend(self._of_critics, loss, self.critics.parameters())

    action, log_prob = self.actor.sample(
      self._standardised(batch.features), noise[1]
    )
    value = _values(self.critics, batch.privileged, action).amin(0)
    loss = (temperature * log_prob - value).mean()
    _descend(self._of_actor, loss, self.actor.parameters())

    entropy_gap = log_prob.detach().mean() + self._config.target_entropy
    loss = -self.log_temperature * entropy_gap
    _descend(self._of_temperature, loss, [self.log_temperature])
    with torch.no_grad():
      self.log_temperature.clamp_(math.log(1e-4), 0)
      _follow(self.average, self.actor, 1 - self._config.ema_decay)
      _follow(self.targets, self.critics, 1 - self._config.target_ema_decay)

  def _standardised(self, features: torch.Tensor) -> torch.Tensor:
    return (features - self._mean) / self._std


def updates(config: controller_config.Config, num_threads: int) -> contest.Work:
  """Prepares updates, each with the next of `control.batches`."""
  # Threads wait actively for each other, which is slow beside other work.
  torch.set_num_threads(num_threads)
  torch.manual_seed(0)
  learner, batches = Learner(config), control.batches(config)
  stream = itertools.cycle(list(zip(*map(torch.from_numpy, batches))))
  shape = 2, *batches.action.shape[1:]

  def work() -> float:
    learner.update(type(batches)(*next(stream)), torch.randn(shape))
    return 1

  return work


def _values(
  critics: nn.ModuleList, inputs: torch.Tensor, action: torch.Tensor
) -> torch.Tensor:
  """Returns the values of both critics, [2, B]."""
  inputs = torch.cat([inputs, action], -1)
  return torch.stack([critic(inputs)[:, 0] for critic in critics])


def _descend(
  optimizer: torch.optim.Optimizer,
  loss: torch.Tensor,
  parameters: Iterable[torch.Tensor],
) -> None:
  optimizer.zero_grad()
  loss.backward(inputs=list(parameters))
  optimizer.step()


def _follow(averages: nn.Module, modules: nn.Module, speed: float) -> None:
  """Moves moving averages of parameters."""
  for average, parameter in zip(averages.parameters(), modules.parameters()):
    average.lerp_(parameter, speed)
