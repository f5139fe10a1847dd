"""Policy × environments → episodes.

The one engine for everything that drives: data generation, control and
evaluation. An episode is a pure function of the seed, its split and its number.
"""

from collections.abc import Sequence

from carracing_rollouts import environment
from carracing_rollouts import policies
from carracing_rollouts import schema
import numpy as np


def generate(
  split: str,
  episode_id: int,
  *,
  seed: int,
  policy: str,
  simulator: str,
  max_steps: int,
) -> schema.Episode:
  """Generates one episode of a dataset.

  Args:
    split: `train` or `validation`.
    episode_id: the episode's number within its split.
    seed: the dataset's seed.
    policy: a key of `policies.POLICIES`.
    simulator: a key of `environment.SIMULATORS`.
    max_steps: transitions after which the episode is truncated.

  Returns:
    The episode, the same one for the same arguments.
  """
  track_seed, policy_seed = episode_seeds(seed, split, episode_id)
  environments = environment.SIMULATORS[simulator]([track_seed], max_steps)
  [episode] = rollout(environments, policies.POLICIES[policy](), [policy_seed])
  environments.close()
  return episode


def episode_seeds(
  seed: int, split: str, episode_id: int
) -> tuple[int, np.random.SeedSequence]:
  """Returns an episode's seed for the track and its seed for the policy."""
  sequence = np.random.SeedSequence(
    [seed, schema.SPLITS.index(split), episode_id]
  )
  track, policy = sequence.spawn(2)
  return int(track.generate_state(1)[0] >> 1), policy  # EnvPool takes 31 bits.


def rollout(
  environments: environment.Environments,
  policy: policies.Policy,
  policy_seeds: Sequence[np.random.SeedSequence],
) -> list[schema.Episode]:
  """Runs a batch of episodes from their first step to their last.

  Args:
    environments: B environments that have not been reset.
    policy: chooses the actions.
    policy_seeds: B seeds for the policy's own draws.

  Returns:
    B episodes.
  """
  observation = environment.resize(environments.reset())
  carry = policy.initial_carry(policy_seeds)
  observations = [[first] for first in observation]
  actions = [[] for _ in observation]
  rewards = [[] for _ in observation]
  terminal = np.zeros(len(observation), bool)
  running = np.ones(len(observation), bool)
  while running.any():
    action, carry = policy(observation, carry)
    transition = environments.step(action)
    observation = environment.resize(transition.frame)
    for i in np.flatnonzero(running):
      observations[i].append(observation[i])
      actions[i].append(action[i])
      rewards[i].append(transition.reward[i])
    terminal |= running & transition.terminated
    running &= ~(transition.terminated | transition.truncated)
  return [
    _episode(np.stack(o), np.stack(a), np.stack(r), t)
    for o, a, r, t in zip(observations, actions, rewards, terminal)
  ]


def _episode(
  observation: np.ndarray,
  action: np.ndarray,
  reward: np.ndarray,
  terminal: bool,
) -> schema.Episode:
  """Assembles N+1 observations and N actions and rewards to N+1 RLDS steps."""
  steps = len(observation)
  is_first = np.arange(steps) == 0
  is_last = np.arange(steps) == steps - 1
  discount = np.ones(steps - 1, np.float32)
  discount[-1] = 0 if terminal else 1
  return schema.Episode(
    observation=observation,
    action=np.pad(action, ((0, 1), (0, 0))),
    reward=np.pad(reward, (0, 1)),
    discount=np.pad(discount, (0, 1)),
    is_first=is_first,
    is_last=is_last,
    is_terminal=is_last & terminal,
  )
