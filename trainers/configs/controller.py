"""Config of C by soft actor-critic; the paper: `controller_evolution.py`."""

from typing import Annotated, Literal

import ml_collections
import pydantic
from trainers.configs import base

_MAX_SAMPLES = 1_000_000  # In a step.
StuckSteps = Annotated[int, pydantic.Field(ge=0, le=1000)]
# Larger numbers are typos, and would be infinite in float32 or in the game.
Bounded = Annotated[float, pydantic.Field(ge=0, le=1000)]
CriticSize = Annotated[int, pydantic.Field(ge=1, le=4096)]
Discount = Annotated[float, pydantic.Field(ge=0, lt=1)]
EntropyWeight = Annotated[float, pydantic.Field(gt=0, le=1)]
TargetEntropy = Annotated[float, pydantic.Field(ge=-100, le=100)]


def _check_simulator(name: str) -> str:
  from carracing_rollouts import environment  # Imports Gymnasium.

  return environment.check_simulator(name)


class ControllerConfig(base.RunConfig):
  """Hyperparameters of C, found by any method."""

  features: Literal['z,h', 'z'] = 'z,h'
  """What C sees."""
  simulator: Annotated[str, pydantic.AfterValidator(_check_simulator)] = (
    'sketched'
  )
  num_cars: Annotated[int, pydantic.Field(ge=1, le=1000)] = 16
  selection_tracks: Annotated[int, pydantic.Field(ge=1, le=1000)] = 32
  """Tracks of an evaluation."""

  log_every_steps: base.Steps = 10

  @pydantic.model_validator(mode='after')
  def _check_selection(self) -> 'ControllerConfig':
    if self.selection_tracks % self.num_cars:
      raise ValueError(
        f'num_cars: {self.num_cars} does not divide'
        f' selection_tracks={self.selection_tracks}'
      )
    return self


class Config(ControllerConfig):
  """Hyperparameters of C by soft actor-critic.

  A step of the run drives `drive_steps` steps with every car.
  """

  method: Literal['actor_critic'] = 'actor_critic'

  drive_steps: base.Count = 32
  stuck_steps: StuckSteps = 80
  """Steps without a new tile that end an episode."""
  noise_correlation: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.8
  """Of exploration noise, over a step."""
  deterministic_share: base.Share = 0.5
  """Share of cars, rounded to a whole car, that practise without exploration
  noise, as C drives later. Noise moves a car that stands still: with it alone,
  C learns no way on."""
  warmup_steps: base.Steps = 10
  """Without learning, to standardise the features."""
  start_share: base.Share = 0.3
  """Share of episodes that start at the start of the track, retries aside."""
  start_offset: Bounded = 3.0
  """Of the other starts: standard deviation of the offset, metres."""
  start_angle: Bounded = 0.25
  """Of the other starts: standard deviation of the angle, radians."""
  retry_share: base.Share = 0.5
  """Share of failed episodes that are tried again: the next one starts shortly
  before the place where it failed."""

  grass_penalty: Bounded = 2.0
  """Per step with all four wheels on grass."""
  speed_penalty: Bounded = 0.5
  """Per step at speed 100, with its square."""
  missed_penalty: Bounded = 30.0
  """Per tile left behind untouched: without it the lap does not end."""
  reward_scale: Bounded = 0.1

  privileged_critics: bool = True
  """Critics see the simulator's state."""
  critic_size: CriticSize = 256
  """Units of a hidden layer."""
  replay_steps: Annotated[int, pydantic.Field(ge=1, le=10_000_000)] = 300_000
  """Steps in the replay buffer."""
  batch_size: base.Count = 256
  updates_per_step: base.Count = 128
  discount: Discount = 0.99
  return_steps: Annotated[int, pydantic.Field(ge=1, le=100)] = 3
  """Of n-step returns."""
  learning_rate: base.LearningRate = 3e-4
  cosine_decay: bool = True
  """The learning rate falls to 0, and the target of the entropy to the last;
  what is there then is exported."""
  initial_temperature: EntropyWeight = 0.1
  """Weight of the entropy."""
  target_entropy: TargetEntropy = -3.0
  """Of the actions before they are scaled, nats, at first."""
  last_target_entropy: TargetEntropy = -7.0
  """After three quarters of the run: what is exported drives without noise."""
  target_ema_decay: base.Share = 0.995
  """Of the averages of the critics, the targets."""
  ema_decay: base.Share = 0.999
  """Of the exported average of the actor."""
  num_steps: base.Steps = 2000
  """1,024,000 steps of driving, 254,720 updates."""

  checkpoint_every_steps: base.Steps = 50

  @pydantic.model_validator(mode='after')
  def _check_replay(self) -> 'Config':
    check_samples(
      self.updates_per_step * self.batch_size,
      f'updates_per_step: {self.updates_per_step} batches of {self.batch_size}',
    )
    # The first transitions are sampled after the warm-up; the newest
    # `return_steps` rows have no next state yet.
    rows = self.replay_steps // self.num_cars
    for name, available in (
      ('replay_steps', rows),
      ('warmup_steps', self.warmup_steps * self.drive_steps),
    ):
      if available <= self.return_steps:
        raise ValueError(
          f'{name}: {getattr(self, name)} is too small for'
          f' return_steps={self.return_steps}'
        )
    if rows < self.drive_steps:
      raise ValueError(
        f'replay_steps: {self.replay_steps} is too small for'
        f' drive_steps={self.drive_steps} with {self.num_cars} cars'
      )
    return self


def check_samples(number: int, what: str) -> None:
  """Bounds the memory of a step; learners compare it with the machine's.

  Raises:
    ValueError: there are too many samples.
  """
  if number > _MAX_SAMPLES:
    raise ValueError(f'{what} are more than {_MAX_SAMPLES:,} samples')


def get_config() -> ml_collections.ConfigDict:
  return base.config_dict(Config())
