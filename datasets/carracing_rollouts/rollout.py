"""Policy × environments → steps, which are collected into episodes.

`play` is the single loop behind data generation, control, evaluation and
videos. An episode of a dataset is a pure function of the seed, its split and
its number.
"""

from collections.abc import Generator, Sequence
import dataclasses
import importlib.metadata
from typing import Any, NamedTuple

from carracing_data import errors
from carracing_rollouts import action_log
from carracing_rollouts import environment
from carracing_rollouts import interventions as interventions_lib
from carracing_rollouts import policies
from carracing_rollouts import schema
from carracing_rollouts import tracks
import numpy as np


class Step(NamedTuple):
  """One step of the R running episodes in a batch of B.

  Attributes:
    ids: int [R], ascending: indices of the running episodes in the batch.
    frame: uint8 [R, 96, 96, 3], 0..255: simulator's frame before the action.
    observation: uint8 [R, 64, 64, 3], 0..255: observation before the action.
    action: float32 [R, 3]: steering −1..1, gas 0..1, brake 0..1.
    is_intervention: bool [R]: whether the action was imposed.
    reward: float32 [R]; this and the next two as in `environment.Transition`.
    terminated: bool [R].
    truncated: bool [R].
    next_frame: uint8 [R, 96, 96, 3], 0..255: frame after the action.
    next_observation: uint8 [R, 64, 64, 3], 0..255: observation after it.
  """

  ids: np.ndarray
  frame: np.ndarray
  observation: np.ndarray
  action: np.ndarray
  is_intervention: np.ndarray
  reward: np.ndarray
  terminated: np.ndarray
  truncated: np.ndarray
  next_frame: np.ndarray
  next_observation: np.ndarray


def play(
  environments: environment.Environments,
  policy: policies.Policy,
  seeds: Sequence[np.random.SeedSequence],
  interventions: Sequence[float] | None = None,
) -> Generator[Step, None, None]:
  """Runs a batch of episodes from the first step to the last.

  Neither the simulator nor the policy runs finished episodes. Once the first
  step is requested, the environments are always closed, even if the caller
  stops early.

  Args:
    environments: B environments that have not been reset.
    policy: policy that chooses the actions.
    seeds: B seeds for the random draws of the policy and of interventions.
    interventions: probability that an intervention begins at a step, for each
      episode; none by default.

  Yields:
    The next step of the running episodes, in new arrays.

  Raises:
    ValueError: the policy does not return one action for each episode.
  """
  try:
    ids = np.arange(len(seeds))
    frame = environments.reset()
    observation = environment.resize(frame)
    carry = policy.initial_carry(seeds)
    probability = [0.0] * len(seeds) if interventions is None else interventions
    imposing = interventions_lib.initial_carry(seeds, probability)
    running = np.ones(len(seeds), bool)
    while running.any():
      if not running.all():
        ids, frame, observation, carry, imposing = _select(
          (ids, frame, observation, carry, imposing), np.flatnonzero(running)
        )
      imposed, imposing = interventions_lib.draw(imposing)
      is_intervention = ~np.isnan(imposed[:, 0])
      action, carry = policy(observation, carry, imposed)
      if np.shape(action) != imposed.shape:
        raise ValueError(
          f'the policy returned {list(np.shape(action))}, not one action for'
          f' each of {len(ids)} episodes'
        )
      action = np.where(is_intervention[:, None], imposed, action)
      action = action.astype(np.float32)
      next_frame, reward, terminated, truncated = environments.step(ids, action)
      next_observation = environment.resize(next_frame)
      yield Step(
        ids,
        frame,
        observation,
        action,
        is_intervention,
        reward,
        terminated,
        truncated,
        next_frame,
        next_observation,
      )
      frame, observation = next_frame, next_observation
      running = ~(terminated | truncated)
  finally:
    environments.close()


def episodes(
  environments: environment.Environments,
  policy: policies.Policy,
  seeds: Sequence[np.random.SeedSequence],
  interventions: Sequence[float] | None = None,
) -> list[schema.Episode]:
  """Records B episodes; see `play` for the arguments."""
  rows = [[] for _ in seeds]
  for step in play(environments, policy, seeds, interventions):
    for i, *row in zip(
      step.ids,
      step.observation,
      step.action,
      step.is_intervention,
      step.reward,
      step.terminated,
      step.next_observation,
    ):
      rows[i].append(row)
  return [_episode(*zip(*episode)) for episode in rows]


def generate(
  split: str,
  episode_id: int,
  *,
  seed: int,
  policy: str,
  simulator: str,
  max_steps: int,
  interventions: float = 0.0,
) -> schema.Episode:
  """Generates one episode of a dataset.

  Args:
    split: `train` or `validation`.
    episode_id: the episode's number within its split.
    seed: the dataset's seed.
    policy: specification of the policy, see `policies.make`.
    simulator: a key of `environment.SIMULATORS`.
    max_steps: transitions after which the episode is truncated.
    interventions: probability that an intervention begins at a step.

  Returns:
    The episode, which depends on the arguments alone.
  """
  track_seed, policy_seed = episode_seeds(seed, split, episode_id)
  environments = environment.SIMULATORS[simulator]([track_seed], max_steps)
  [episode] = episodes(
    environments, policies.make(policy), [policy_seed], [interventions]
  )
  return episode


def replay(
  logged: action_log.LoggedEpisode,
  actions: np.ndarray,
  simulator: str,
) -> schema.Episode:
  """Replays an episode of an action log.

  Args:
    logged: description of the episode.
    actions: its actions, float32 [N, 3].
    simulator: a key of `environment.SIMULATORS`; all of them have the same
      physics, so it need not be the one that was driven.

  Returns:
    The episode, which depends on the arguments alone.

  Raises:
    errors.DatasetError: its number of steps, its return or its end is not the
      logged one.
  """
  environments = environment.SIMULATORS[simulator](
    [logged.track_seed], logged.num_steps
  )
  [episode] = episodes(
    environments,
    policies.RecordedPolicy([actions]),
    [np.random.SeedSequence(0)],  # Not used.
  )
  text = '{} steps, return {}, terminated={}'
  driven = text.format(
    len(episode) - 1,
    action_log.total(episode.reward),
    bool(episode.is_terminal.any()),
  )
  recorded = text.format(logged.num_steps, logged.return_, logged.terminated)
  if driven != recorded:
    raise errors.DatasetError(
      f'the replay on track {logged.track_seed} has {driven}; recorded were'
      f' {recorded}'
    )
  return dataclasses.replace(
    episode, is_intervention=np.append(logged.is_intervention(), False)
  )


def versions(simulator: str) -> dict[str, str]:
  """Returns the installed versions of the packages of a simulator.

  Args:
    simulator: a key of `environment.SIMULATORS`.
  """
  packages = environment.SIMULATORS[simulator].PACKAGES
  return {name: importlib.metadata.version(name) for name in packages}


def episode_seeds(
  seed: int, split: str, episode_id: int
) -> tuple[int, np.random.SeedSequence]:
  """Returns an episode's seed for the track and its seed for the policy.

  No track is in two splits.
  """
  of_split = schema.SPLITS.index(split)
  sequence = np.random.SeedSequence([seed, of_split, episode_id])
  track, policy = sequence.spawn(2)
  [drawn] = track.generate_state(1, np.uint64)
  return tracks.of_dataset(int(drawn), of_split), policy


def track(seed: int, split: str, episode_id: int) -> int:
  """Returns the seed of an episode's track."""
  return episode_seeds(seed, split, episode_id)[0]


def track_in_version_1(seed: int, split: str, episode_id: int) -> int:
  """Returns the track of an episode of a dataset of version 1."""
  sequence = np.random.SeedSequence(
    [seed, schema.SPLITS.index(split), episode_id]
  )
  return int(sequence.spawn(1)[0].generate_state(1)[0] >> 1)  # 31 bits.


def _select(carry: Any, keep: np.ndarray) -> Any:
  """Selects the entries of a carry (see `policies`) with the indices `keep`."""
  if isinstance(carry, tuple):
    make = getattr(carry, '_make', tuple)  # `_make` of a NamedTuple.
    return make(_select(part, keep) for part in carry)
  return carry[keep]


def _episode(
  observation: Sequence[np.ndarray],
  action: Sequence[np.ndarray],
  is_intervention: Sequence[np.ndarray],
  reward: Sequence[np.ndarray],
  terminated: Sequence[np.ndarray],
  next_observation: Sequence[np.ndarray],
) -> schema.Episode:
  """Assembles N transitions into N+1 RLDS steps."""
  last = np.arange(len(action) + 1) == len(action)
  terminal = last & terminated[-1]
  return schema.Episode(
    observation=np.stack([*observation, next_observation[-1]]),
    action=np.pad(action, ((0, 1), (0, 0))),
    is_intervention=np.append(is_intervention, False),
    reward=np.pad(reward, (0, 1)),
    discount=(~(last | np.roll(terminal, -1))).astype(np.float32),
    is_first=np.arange(len(action) + 1) == 0,
    is_last=last,
    is_terminal=terminal,
  )
