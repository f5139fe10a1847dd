"""Records action logs: (drivers, seed) → the actions of episodes.

Finished jobs are kept in a folder beside the log until all are finished, so
recording can be interrupted at any moment. A finished log can be extended by
more episodes, and then equals one that was recorded at once.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
import json
import os
from pathlib import Path
import re
import shlex

from carracing_data import errors
from carracing_data import files
from carracing_rollouts import action_log
from carracing_rollouts import rollout
from carracing_rollouts import schema
import numpy as np
from tools.driving import drivers
from tools.driving import jobs

_Number = tuple[str, int]  # Split, and number of an episode in it.
_Episode = tuple[action_log.LoggedEpisode, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is recorded.

  Attributes:
    drivers: who drives; those of consecutive episodes take turns.
    agent_folder: folder of the agent; None if no agent drives.
    seed: seed of tracks, policies and noise.
    simulator: a key of `environment.SIMULATORS`.
    max_steps: steps after which an episode is truncated.
  """

  drivers: tuple[action_log.Driver, ...]
  agent_folder: str | os.PathLike[str] | None
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
      seed=self.seed,
      episodes=list(episodes),
    )

  def drive(self, number: _Number) -> jobs.Drive:
    """Returns what is driven in an episode."""
    split, i = number
    driver = self.drivers[i % len(self.drivers)]
    track, seed = rollout.episode_seeds(self.seed, split, i)
    return jobs.Drive(driver, track, seed, self.simulator, self.max_steps)

  def records(self, header: action_log.Header) -> bool:
    """Returns whether a log of this plan has these episodes."""
    drives = [self.drive(number) for number in _numbers(len(header.episodes))]
    expected = [(drive.driver, drive.track) for drive in drives]
    found = [(x.driver, x.track_seed) for x in header.episodes]
    shaped_by = header.simulator, header.max_steps, header.seed
    wanted = self.simulator, self.max_steps, self.seed
    return found == expected and shaped_by == wanted


def record(
  plan: Plan, num_episodes: int, output: Path, execute: jobs.Execute
) -> action_log.ActionLog:
  """Records a log, as far as it is not recorded yet.

  Args:
    plan: what is recorded.
    num_episodes: number of episodes, at least 2; see `schema.split_sizes`.
    output: file of the log.
    execute: runs jobs, in any order and in any processes.

  Returns:
    The log.

  Raises:
    errors.UserError: the output holds another log or more episodes, was
      recorded otherwise than this process would, or cannot be written.
  """
  staged = output.with_name(f'.{output.name}.unfinished')
  log = find(plan, num_episodes, output)
  if log is not None and len(log.actions) == num_episodes:
    if not staged.exists():
      return log
  files.refuse_link(staged)
  with files.locked(files.claim_folder(staged)):
    # Another process may have recorded it, or was killed afterwards.
    log = find(plan, num_episodes, output)
    if log is None or len(log.actions) < num_episodes:
      log = _record(plan, num_episodes, log, output, staged, execute)
      action_log.write(output, log)
    files.remove_staging(staged, jobs.FILES)  # The log is complete.
  return log


def find(
  plan: Plan, num_episodes: int, output: Path
) -> action_log.ActionLog | None:
  """Returns the log in a file if it is what the plan records, or the start.

  Args:
    plan: what is recorded.
    num_episodes: number of episodes; see `record`.
    output: file of the log.

  Returns:
    A log of at most as many episodes; None if there is no file.

  Raises:
    errors.UserError: the file holds something else, or more episodes.
  """
  if not output.exists():
    return None
  try:
    log = action_log.read(output)
  except action_log.LogError as error:
    raise action_log.LogError(f'{error}; choose another --output') from None
  count = len(log.actions)
  if log.header.schema_version == 1:
    raise errors.UserError(
      f'{output} holds a log of an earlier version of this project, and cannot'
      ' be extended; choose another --output'
    )
  if not plan.records(log.header):
    raise errors.UserError(
      f'{output} holds another log, of {count} episodes; delete it, or choose'
      ' another --output'
    )
  if count > num_episodes:
    raise errors.UserError(
      f'{output} holds a log of {count} episodes; pass --episodes={count} or'
      ' more, or choose another --output'
    )
  return log


def _record(
  plan: Plan,
  num_episodes: int,
  log: action_log.ActionLog | None,
  output: Path,
  staged: Path,
  execute: jobs.Execute,
) -> action_log.ActionLog:
  """Records the episodes that a log lacks."""
  known: dict[_Number, _Episode] = {}
  if log is not None:
    if log.header != plan.header(log.header.episodes):
      raise errors.UserError(
        f'{output} was recorded with other packages, {log.header.packages}, and'
        ' cannot be extended with these; choose another --output'
      )
    pairs = zip(log.header.episodes, log.actions, strict=True)
    known = dict(zip(_numbers(len(log.actions)), pairs, strict=True))
  wanted = _numbers(num_episodes)
  # A log does not tell all that shaped it, e.g. the kind of CPU: its first
  # episodes are driven again. A person could not.
  by_hand = drivers.by_hand(plan.drivers[0])
  again = [] if by_hand else [*known][: len(plan.drivers)]
  todo = [x for x in wanted if x in again or x not in known]
  # A person who stops early has episodes of both splits.
  todo.sort(key=lambda number: number[0] == 'train')
  groups = itertools.groupby(todo, key=lambda number: number[0])
  driven = jobs.run(
    [[plan.drive(number) for number in group] for _, group in groups],
    plan.agent_folder,
    staged,
    execute,
    'recording',
    num_episodes,
  )
  for number, of_episode in zip(todo, driven, strict=True):
    drive = plan.drive(number)
    episode = action_log.logged(
      number[0],
      drive.track,
      drive.driver,
      of_episode.action,
      of_episode.is_intervention,
      of_episode.reward,
      of_episode.terminated,
    )
    if number in again and not _same(episode, known[number]):
      raise errors.UserError(
        f'{output} cannot be extended: this machine, with these packages,'
        ' drives its first episodes otherwise; choose another --output'
      )
    known[number] = episode
  episodes, actions = zip(*(known[number] for number in wanted))
  return action_log.ActionLog(plan.header(episodes), actions)


def _numbers(num_episodes: int) -> list[_Number]:
  """Returns the episodes of a log, in order."""
  sizes = schema.split_sizes(num_episodes)
  return [(split, i) for split, size in sizes.items() for i in range(size)]


def _same(one: _Episode, other: _Episode) -> bool:
  return one[0] == other[0] and np.array_equal(one[1], other[1])


def describe(log: action_log.ActionLog, path: Path) -> Iterator[str]:
  """Yields a line for each driver, and how to build a dataset of the file."""
  returns: dict[str, list[float]] = {}
  for episode in log.header.episodes:
    returns.setdefault(episode.driver.title, []).append(episode.return_)
  for title, values in returns.items():
    if len(values) == 1:
      yield f'{title}: 1 episode, return {values[0]:.1f}'
      continue
    yield (
      f'{title}: {len(values)} episodes,'
      f' return {np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}'
    )
  name = re.sub(r'[^A-Za-z0-9_.-]', '_', path.stem)
  config = {'name': name, 'policy': 'recorded', 'actions': str(path)}
  yield (
    f'{path}: {path.stat().st_size / 1e6:.2f} MB; to build a dataset of it:'
    ' tfds build datasets/carracing_rollouts --config'
    f' {shlex.quote(json.dumps(config))}'
  )
