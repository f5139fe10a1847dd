"""Records action logs: (driver, seed) → the actions of episodes.

Jobs of a few episodes write small logs into a folder beside the output, which
are joined when all are there. So recording can be interrupted at any moment,
and loses only the batches under way.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import os
from pathlib import Path
import shutil
from typing import Any, NamedTuple

from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
from carracing_data import rlds_steps
from carracing_data import runtime
from carracing_data import shards
from carracing_rollouts import action_log
from carracing_rollouts import environment
from carracing_rollouts import policies
from carracing_rollouts import rollout
from carracing_rollouts import schema
from models import agent
import numpy as np
from tools.driving import drives
from tools.driving import keyboard

# Of the noise with that of the step before: noise lasts for some 20 steps,
# because independent noise would average out.
_CORRELATION = 0.95
_SPELL = 20  # Steps with noise, or without, where it comes and goes.
KEYBOARD = 'keyboard'
AGENT = 'agent'


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is recorded, picklable.

  Attributes:
    drivers: who drives; those of consecutive episodes take turns.
    agent_folder: absolute folder of the agent; None if no agent drives.
    seed: seed of tracks, policies and noise.
    simulator: a key of `environment.SIMULATORS`.
    max_steps: steps after which an episode is truncated.
  """

  drivers: tuple[action_log.Driver, ...]
  agent_folder: str | None
  seed: int
  simulator: str
  max_steps: int

  def header(
    self, episodes: Sequence[action_log.LoggedEpisode]
  ) -> action_log.Header:
    """Returns the header of a log with these episodes."""
    return action_log.Header(
      simulator=self.simulator,
      packages=rollout.versions(self.simulator),
      max_steps=self.max_steps,
      episodes=list(episodes),
    )

  def records(
    self, header: action_log.Header, episodes: Sequence[tuple[str, int]]
  ) -> bool:
    """Returns whether a log holds these episodes, (split, number) each."""
    expected = [
      (split, rollout.episode_seeds(self.seed, split, i)[0], self.driver(i))
      for split, i in episodes
    ]
    found = [(e.split, e.track_seed, e.driver) for e in header.episodes]
    game = header.simulator, header.max_steps
    return found == expected and game == (self.simulator, self.max_steps)

  def driver(self, episode_id: int) -> action_log.Driver:
    """Returns who drives an episode of a split."""
    return self.drivers[episode_id % len(self.drivers)]

  @property
  def by_hand(self) -> bool:
    """Whether a person drives."""
    return self.drivers[0].name == KEYBOARD

  def fingerprint(self) -> str:
    """Returns a digest of all choices except the number of episodes."""
    return json_documents.digest(
      {
        'drivers': [driver.model_dump() for driver in self.drivers],
        'seed': self.seed,
        'simulator': self.simulator,
        'packages': rollout.versions(self.simulator),
        'max_steps': self.max_steps,
      }
    )


@dataclasses.dataclass(frozen=True)
class Job:
  """Records some episodes of a split, unless they are already recorded.

  Attributes:
    plan: what is recorded.
    split: `train` or `validation`.
    episode_ids: numbers of the episodes within the split.
    staging: folder of the small logs.
  """

  plan: Plan
  split: str
  episode_ids: range
  staging: str

  @property
  def num_episodes(self) -> int:
    return len(self.episode_ids)

  @property
  def path(self) -> Path:
    first, count = self.episode_ids[0], len(self.episode_ids)
    return Path(self.staging, f'{self.split}-{first:07d}-{count}.npz')

  def result(self) -> action_log.ActionLog | None:
    """Returns what is recorded; None if it is missing, damaged or foreign."""
    try:
      log = action_log.read(self.path)
    except action_log.LogError:
      return None
    episodes = [(self.split, i) for i in self.episode_ids]
    return log if self.plan.records(log.header, episodes) else None

  def __call__(self) -> None:
    if self.result() is None:
      action_log.write(self.path, self._record())

  def _record(self) -> action_log.ActionLog:
    plan = self.plan
    seeds = [
      rollout.episode_seeds(plan.seed, self.split, i) for i in self.episode_ids
    ]
    drivers = [plan.driver(i) for i in self.episode_ids]
    if plan.by_hand:
      driven = [keyboard.drive(seeds[0][0], plan.max_steps)]
    else:
      environments = environment.SIMULATORS[plan.simulator](
        [track for track, _ in seeds], plan.max_steps
      )
      policy_seeds = [policy for _, policy in seeds]
      driven = [
        keyboard.Driven(
          episode.action[:-1],
          episode.reward[:-1],
          bool(episode.is_terminal.any()),
        )
        for episode in rollout.episodes(
          environments, _policy(plan, drivers), policy_seeds
        )
      ]
    logged = [
      action_log.LoggedEpisode.model_validate(
        {
          'split': self.split,
          'track_seed': track_seed,
          'num_steps': len(of_episode.action),
          'return': action_log.total(of_episode.reward),
          'terminated': of_episode.terminated,
          'driver': driver,
        }
      )
      for (track_seed, _), driver, of_episode in zip(seeds, drivers, driven)
    ]
    actions = [of_episode.action for of_episode in driven]
    return action_log.ActionLog(plan.header(logged), actions)


def record(
  plan: Plan,
  num_episodes: int,
  output: Path,
  run: Callable[[Sequence[Job]], None],
) -> action_log.ActionLog:
  """Records a log, as far as it is not recorded yet.

  Args:
    plan: what is recorded.
    num_episodes: number of episodes, at least 2; see `schema.split_sizes`.
    output: file of the log.
    run: runs jobs, in any order and in any processes.

  Returns:
    The log.

  Raises:
    errors.UserError: the output holds another log, or cannot be written.
  """
  folder = output.with_name(f'.{output.name}.unfinished')
  if output.exists() and not folder.exists():
    return read_finished(plan, num_episodes, output)
  with files.locked(files.claim_folder(folder)):
    if output.exists():  # Another process recorded it, or was killed after.
      log = read_finished(plan, num_episodes, output)
      shutil.rmtree(folder, ignore_errors=True)
      return log
    staged = folder / plan.fingerprint()[:16]
    with files.write_errors(folder):
      staged.mkdir(exist_ok=True)
      shards.remove_temporary(staged)
    jobs = _jobs(plan, schema.split_sizes(num_episodes), staged)
    # A person who stops early has episodes of both splits.
    ordered = sorted(jobs, key=lambda job: job.split == 'train')
    drives.run_missing(
      ordered if plan.by_hand else jobs,
      'recording',
      'episodes',
      num_episodes,
      run,
    )
    parts = [job.result() for job in jobs]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts):
      raise errors.UserError(
        f'{len(parts) - len(found)} of {len(parts)} parts in {staged} were'
        ' damaged after they were written; run the same command again'
      )
    log = action_log.ActionLog(
      plan.header([x for part in found for x in part.header.episodes]),
      [actions for part in found for actions in part.actions],
    )
    action_log.write(output, log)
    shutil.rmtree(folder, ignore_errors=True)  # The log is complete.
  return log


def _jobs(plan: Plan, sizes: Mapping[str, int], staged: Path) -> list[Job]:
  """Divides the episodes of all splits."""
  batch = 1 if plan.by_hand else drives.TRACKS_PER_JOB
  return [
    Job(plan, split, range(size)[first : first + batch], os.fspath(staged))
    for split, size in sizes.items()
    for first in range(0, size, batch)
  ]


def read_finished(
  plan: Plan, num_episodes: int, output: Path
) -> action_log.ActionLog:
  """Returns the log in a file if it is what the plan records.

  Args:
    plan: what is recorded.
    num_episodes: number of episodes; see `record`.
    output: file of the log.

  Raises:
    errors.UserError: there is none, or it is something else.
  """
  try:
    log = action_log.read(output)
  except action_log.LogError as error:
    if not output.exists():
      raise
    raise action_log.LogError(
      f'{error}; delete it, or choose another --output'
    ) from None
  sizes = schema.split_sizes(num_episodes)
  episodes = [(split, i) for split, size in sizes.items() for i in range(size)]
  if not plan.records(log.header, episodes):
    raise errors.UserError(
      f'{output} holds another log, of {len(log.actions)} episodes; delete it,'
      ' or choose another --output'
    )
  return log


def _policy(
  plan: Plan, drivers: Sequence[action_log.Driver]
) -> policies.Policy:
  """Returns the policy of B episodes."""
  weights = drivers[0].weights_sha256
  if plan.agent_folder is None or weights is None:
    return policies.make(drivers[0].name)
  runtime.prepare()
  loaded = drives.load_agent(
    plan.agent_folder, tuple(weights.model_dump().items())
  )
  return _NoisyAgent(loaded, drivers)


class _NoisyCarry(NamedTuple):
  """The state of B episodes.

  Attributes:
    generators: sources of the random draws, [B].
    noise: last noise, standard normal, float64 [B, 3].
    levels: standard deviations of the noise of actions, float64 [B].
    shares: shares of the spells with noise, float64 [B].
    step: number of steps so far, int64 [B].
    noisy: whether this spell has noise, bool [B].
    inner: carry of the agent.
  """

  generators: np.ndarray
  noise: np.ndarray
  levels: np.ndarray
  shares: np.ndarray
  step: np.ndarray
  noisy: np.ndarray
  inner: Any


class _NoisyAgent:
  """An agent whose actions get autoregressive noise, all the time or in spells.

  Spells bring the car into states that the agent alone would not reach, and
  between them the agent recovers.
  """

  def __init__(self, driver: agent.Agent, drivers: Sequence[action_log.Driver]):
    self._agent, self._drivers = driver, drivers

  def initial_carry(
    self, seeds: Sequence[np.random.SeedSequence]
  ) -> _NoisyCarry:
    size = len(seeds)
    return _NoisyCarry(
      np.array([np.random.default_rng(s) for s in seeds], object),
      np.zeros((size, rlds_steps.ACTION_SIZE)),
      np.array([driver.noise for driver in self._drivers]),
      np.array([driver.noise_share for driver in self._drivers]),
      np.zeros(size, int),
      np.ones(size, bool),
      self._agent.initial_carry(seeds),
    )

  def __call__(
    self, observation: np.ndarray, carry: _NoisyCarry
  ) -> tuple[np.ndarray, _NoisyCarry]:
    generators, noise, levels, shares, step, noisy, inner = carry
    fresh = np.stack(
      [g.standard_normal(rlds_steps.ACTION_SIZE) for g in generators]
    )
    noise = _CORRELATION * noise + np.sqrt(1 - _CORRELATION**2) * fresh
    noisy = noisy.copy()
    for i in np.flatnonzero((shares < 1) & (step % _SPELL == 0)):
      noisy[i] = generators[i].random() < shares[i]
    added = (levels * noisy)[:, None] * noise
    action, inner = self._agent(observation, inner, added)
    return action, _NoisyCarry(
      generators, noise, levels, shares, step + 1, noisy, inner
    )


def agent_drivers(
  folder: str | os.PathLike[str], levels: Sequence[float], noise_share: float
) -> tuple[action_log.Driver, ...]:
  """Returns an agent as a driver for each level of noise.

  Args:
    folder: folder of the agent.
    levels: standard deviations of the noise.
    noise_share: share of the steps with noise, where there is any.

  Raises:
    weights.WeightsError: the agent is missing or damaged.
  """
  digests = action_log.AgentWeights(**agent.digests(folder))
  return tuple(
    action_log.Driver(
      name=AGENT,
      weights_sha256=digests,
      noise=level,
      noise_share=noise_share if level else 1.0,
    )
    for level in levels
  )


def noise_levels(text: str) -> list[float]:
  """Parses comma-separated levels of noise.

  Raises:
    errors.UserError: one is no number, or out of range.
  """
  levels = []
  for item in text.split(','):
    try:
      level = float(item)
      if not 0 <= level <= action_log.MAX_NOISE:
        raise ValueError
    except ValueError:
      raise errors.UserError(
        f'--noise={text[:80]}: {item[:20]!r} is not a number from 0 to'
        f' {action_log.MAX_NOISE:g}'
      ) from None
    levels.append(level)
  return levels


def check_noise_share(share: float, levels: Sequence[float]) -> float:
  """Returns a share of the steps.

  Args:
    share: value of the flag.
    levels: levels of noise.

  Raises:
    errors.UserError: it is out of range, or there is no noise.
  """
  if not 0 < share <= 1:
    raise errors.UserError(
      f'--noise_share={share}: a share is above 0 and up to 1'
    )
  if share < 1 and not any(levels):
    raise errors.UserError(
      f'--noise_share={share} needs a level above 0 in --noise; without noise'
      ' pass --noise_share=1'
    )
  return share


def describe(log: action_log.ActionLog) -> Iterator[str]:
  """Yields a line for each driver: how many episodes, and their returns."""
  returns: dict[str, list[float]] = {}
  for episode in log.header.episodes:
    returns.setdefault(episode.driver.title, []).append(episode.return_)
  for title, values in returns.items():
    yield (
      f'{title}: {len(values)} episodes,'
      f' return {np.mean(values):.1f} ± {np.std(values):.1f}'
    )
