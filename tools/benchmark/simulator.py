"""The simulator and the collection of episodes."""

from collections.abc import Callable
import contextlib
import io
from pathlib import Path
import tempfile
from typing import Any

from absl import logging
from carracing_data import sharded_builder
from carracing_rollouts import (
  carracing_rollouts_dataset_builder as rollouts_builder,
)
from carracing_rollouts import environment
from carracing_rollouts import policies
from carracing_rollouts import rollout
import gymnasium
import numpy as np
from tools.benchmark import contest

_STEPS = 200  # Per episode.
_EPISODES = 100  # Per collection.


def stages(data_dir: Path) -> list[contest.Stage]:
  """Returns the stages of the simulators."""
  del data_dir
  return [
    contest.Stage(
      'simulator',
      'simulator, one core',
      'steps',
      [
        contest.Contender('`sketched`', drive, ('sketched',)),
        contest.Contender('`gymnasium`', drive, ('gymnasium',)),
        contest.Contender('stock CarRacing-v3', drive_stock),
      ],
    ),
    *(
      contest.Stage(
        f'collection_{simulator}',
        f'`carracing_rollouts` with {simulator}, all cores',
        'steps',
        [
          contest.Contender('ours', build, (simulator,)),
          contest.Contender('a loop around stock CarRacing-v3', collect_stock),
        ],
      )
      for simulator in ('gymnasium', 'sketched')
    ),
  ]


def drive(simulator: str) -> contest.Work:
  """Prepares episodes in one of the dataset's simulators."""

  def work() -> float:
    played = rollout.play(
      environment.SIMULATORS[simulator]([1], _STEPS),
      policies.RecordedPolicy([_actions()]),
      [np.random.SeedSequence(1)],
    )
    return sum(len(step.ids) for step in played)

  return work


def drive_stock() -> contest.Work:
  """Prepares the same episodes in the stock simulator."""
  game = gymnasium.make('CarRacing-v3', max_episode_steps=_STEPS)

  def work() -> float:
    game.reset(seed=1)
    for action in _actions():
      game.step(action)
    return _STEPS

  return work


def builds(
  make_builder: Callable[[str], sharded_builder.ShardedBuilder],
) -> contest.Work:
  """Prepares builds of a dataset, including verification.

  The work silently builds into a new folder and returns the number of steps;
  `make_builder` returns a builder for a data directory.
  """
  logging.set_verbosity(logging.ERROR)
  scratch = tempfile.TemporaryDirectory()

  def work() -> float:
    with (
      tempfile.TemporaryDirectory(dir=scratch.name) as folder,
      contextlib.redirect_stdout(io.StringIO()),
      contextlib.redirect_stderr(io.StringIO()),
    ):
      builder = make_builder(folder)
      builder.download_and_prepare()
      metadata: Any = builder.info.metadata
      return sum(split['num_steps'] for split in metadata['splits'].values())

  return work


def build(simulator: str) -> contest.Work:
  """Prepares builds of the dataset, including verification."""
  config = rollouts_builder.RolloutsConfig(
    name='benchmark',
    num_episodes=_EPISODES,
    max_steps=_STEPS,
    simulator=simulator,
  )
  return builds(
    lambda folder: rollouts_builder.Builder(data_dir=folder, config=config)
  )


def collect_stock() -> contest.Work:
  """Prepares the usual collection: one environment, a folder of .npz files."""
  game = gymnasium.make('CarRacing-v3', max_episode_steps=_STEPS)
  policy = policies.make('random_policy')
  folder = tempfile.TemporaryDirectory()

  def work() -> float:
    frame, _ = game.reset(seed=1)
    carry = policy.initial_carry([np.random.SeedSequence(1)])
    observations, actions, rewards = [], [], []
    ended = False
    while not ended:
      observation = environment.resize(frame[None])
      action, carry = policy(observation, carry)
      frame, reward, terminated, truncated, _ = game.step(action[0])
      observations.append(observation[0])
      actions.append(action[0])
      rewards.append(reward)
      ended = terminated or truncated
    np.savez_compressed(
      f'{folder.name}/episode.npz',
      observation=np.stack(observations),
      action=np.stack(actions),
      reward=np.array(rewards),
    )
    return len(rewards) + 1  # The dataset's steps include the last frame.

  return work


def _actions() -> np.ndarray:
  """Returns actions that stay on the road for a while, float32 [N, 3]."""
  rng = np.random.default_rng(0)
  steering = rng.uniform(-0.3, 0.3, _STEPS)
  gas = np.full(_STEPS, 0.2)
  return np.stack([steering, gas, 0 * gas], axis=-1).astype(np.float32)
