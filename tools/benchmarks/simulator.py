"""The simulator and the collection of episodes."""

import contextlib
import functools
from pathlib import Path
import tempfile

from absl import logging
from carracing_rollouts import (
  carracing_rollouts_dataset_builder as rollouts_builder,
)
from carracing_rollouts import environment
from carracing_rollouts import policies
from carracing_rollouts import rollout
import gymnasium
import numpy as np
import tensorflow_datasets as tfds
from tools.benchmarks import contest

_STEPS = 200  # Of an episode.
_EPISODES = 100  # Of a collection.


def stages(data_dir: Path) -> list[contest.Stage]:
  """Returns the stages of the simulator."""
  del data_dir
  return [
    contest.Stage(
      'simulator',
      'Gymnasium simulator, one core',
      'steps',
      [
        contest.Contender('ours', drive_culled),
        contest.Contender('stock CarRacing-v3', drive_stock, target=2.5),
      ],
    ),
    *(
      contest.Stage(
        f'collection_{simulator}',
        f'`carracing_rollouts` with {simulator}, all cores',
        'steps',
        [
          contest.Contender('ours', functools.partial(build, simulator)),
          contest.Contender(
            'a loop around stock CarRacing-v3', collect_stock, target
          ),
        ],
      )
      for simulator, target in (('gymnasium', None), ('envpool', 10))
    ),
  ]


def drive_culled() -> contest.Work:
  """Prepares episodes in the simulator of the dataset."""

  def work() -> float:
    played = rollout.play(
      environment.GymnasiumEnvironments([1], _STEPS),
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


def build(simulator: str) -> contest.Work:
  """Prepares builds of the dataset, to the verified files."""
  if simulator == 'envpool':
    import envpool  # noqa: F401  Tells whether it is installed.
  tfds.disable_progress_bar()
  logging.set_verbosity(logging.ERROR)
  scratch = tempfile.TemporaryDirectory()

  def work() -> float:
    with (
      tempfile.TemporaryDirectory(dir=scratch.name) as folder,
      contextlib.redirect_stdout(None),
    ):
      builder = rollouts_builder.Builder(
        data_dir=folder,
        config=rollouts_builder.RolloutsConfig(
          name='benchmark',
          num_episodes=_EPISODES,
          max_steps=_STEPS,
          simulator=simulator,
        ),
      )
      builder.download_and_prepare()
      return sum(
        sum(split['episode_steps']) - len(split['episode_steps'])
        for split in builder.info.metadata['splits'].values()
      )

  return work


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
    return len(rewards)

  return work


def _actions() -> np.ndarray:
  """Returns actions that stay on the road for a while, float32 [N, 3]."""
  rng = np.random.default_rng(0)
  steering = rng.uniform(-0.3, 0.3, _STEPS)
  gas = np.full(_STEPS, 0.2)
  return np.stack([steering, gas, 0 * gas], axis=-1).astype(np.float32)
