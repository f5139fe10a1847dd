"""Drives tracks: (agent or built-in policy, seeds) → returns.

The outcome of a track depends only on the driver, the track and the versions
of the packages, not on the other tracks of a job. A job is a pure function: it
writes one JSON document, under a temporary name first, and is safe to repeat.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import importlib.metadata
import os
from pathlib import Path
import sys
from typing import Any, Protocol, TypeVar

from carracing_data import digests
from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
from carracing_data import progress
from carracing_data import rlds_steps
from carracing_data import runtime
from carracing_rollouts import culled_car_racing
from carracing_rollouts import environment
from carracing_rollouts import policies
from carracing_rollouts import rollout
from models import agent
from models import controller
from models import lstm
from models import mdn_rnn
from models import strided_convolution
from models import vae
from models import world_model
import numpy as np
import pydantic

# About 10 s of work. Each track of a larger batch takes as long.
TRACKS_PER_JOB = 8
_PACKAGES = (
  *environment.Environments.PACKAGES,
  'numpy',
  'opencv-python-headless',
)
_PACKAGES_OF_AGENTS = ('flax', 'jax', 'jaxlib')
_SEAL = 'sha256'
# Results of other code are redone, not mixed with those of this one.
_CODE = (
  agent,
  controller,
  culled_car_racing,
  environment,
  mdn_rnn,
  policies,
  lstm,
  rollout,
  rlds_steps,
  strided_convolution,
  vae,
  world_model,
)


class Driver(json_documents.Document):
  """What drives, by content: an agent or a policy.

  Attributes:
    agent: digests of the weights of an agent's parts; None for a policy.
    policy: specification of a policy, see `policies.make`; None for an agent.
  """

  agent: dict[str, json_documents.Sha256] | None
  policy: str | None

  def packages(self) -> dict[str, str]:
    """Returns the versions of the packages that affect an episode."""
    names = _PACKAGES + (_PACKAGES_OF_AGENTS if self.agent else ())
    return {name: importlib.metadata.version(name) for name in sorted(names)}


class Drive(json_documents.Document):
  """One episode.

  Attributes:
    seed: seed of the track.
    return_: sum of the rewards, float32 each, in float64; `return` in JSON.
    steps: number of steps, at most the time limit.
    completed: whether the car finished the lap.
  """

  seed: int
  return_: float = pydantic.Field(alias='return')
  steps: int
  completed: bool


class _Result(json_documents.Document):
  """What a job writes."""

  depends_on: dict[str, Any]
  drives: list[Drive]
  sha256: json_documents.Sha256


def of_agent(folder: str | os.PathLike[str]) -> Driver:
  """Describes an agent after loading it.

  Raises:
    weights.WeightsError: see `agent.load`.
  """
  agent.load(files.expand(folder))
  return Driver(agent=agent.digests(files.expand(folder)), policy=None)


def of_policy(spec: str) -> Driver:
  """Describes a built-in policy.

  Raises:
    errors.DatasetError: see `policies.make`.
  """
  policies.make(spec)
  return Driver(agent=None, policy=spec)


def drive(
  policy: policies.Policy, seeds: Sequence[int], max_steps: int
) -> list[Drive]:
  """Drives tracks of the stock game, without frame skip or early stop.

  Args:
    policy: policy or agent.
    seeds: seeds of the tracks.
    max_steps: time limit.
  """
  played = rollout.play(
    environment.Environments(seeds, max_steps),
    policy,
    [_policy_seed(seed) for seed in seeds],
  )
  returns = np.zeros(len(seeds))
  num_steps = np.zeros(len(seeds), int)
  completed = np.zeros(len(seeds), bool)
  for step in played:
    returns[step.ids] += step.reward
    num_steps[step.ids] += 1
    completed[step.ids] = environment.lap_completed(
      step.terminated, step.reward
    )
  columns = seeds, returns.tolist(), num_steps.tolist(), completed.tolist()
  names = 'seed', 'return', 'steps', 'completed'
  return [Drive.model_validate(dict(zip(names, row))) for row in zip(*columns)]


@dataclasses.dataclass(frozen=True)
class Job:
  """Drives some tracks and writes the result, unless it is already there.

  Picklable, so that any process on any machine that sees the folders can run
  it.

  Attributes:
    driver: what drives.
    agent_folder: absolute folder of the agent; None for a policy.
    tracks: name of the set of tracks.
    first: index of the first track in the set.
    seeds: seeds of the tracks.
    max_steps: time limit.
    staging: absolute folder of the results, shared by all processes.
  """

  driver: Driver
  agent_folder: str | None
  tracks: str
  first: int
  seeds: tuple[int, ...]
  max_steps: int
  staging: str

  @property
  def num_episodes(self) -> int:
    return len(self.seeds)

  @property
  def path(self) -> Path:
    return Path(self.staging, f'{self.tracks}-{self.first:06d}.json')

  def result(self) -> list[Drive] | None:
    """Returns the drives; None if the result is missing, damaged or foreign."""
    try:
      result = json_documents.read(self.path, _Result)
    except (FileNotFoundError, errors.DocumentError):
      return None
    intact = json_documents.is_sealed(result.model_dump(by_alias=True), _SEAL)
    # A job of an earlier call may have had more tracks.
    drives = result.drives[: len(self.seeds)]
    seeds = tuple(drive.seed for drive in drives)
    if not intact or result.depends_on != self._depends_on():
      return None
    return drives if seeds == self.seeds else None

  def __call__(self) -> None:
    if self.result() is not None:
      return
    runtime.prepare()
    drives = drive(self._policy(), self.seeds, self.max_steps)
    content = {
      'depends_on': self._depends_on(),
      'drives': [drive.model_dump(by_alias=True) for drive in drives],
    }
    json_documents.write(self.path, json_documents.sealed(content, _SEAL))

  def _policy(self) -> policies.Policy:
    if self.driver.policy is not None:
      return policies.make(self.driver.policy)
    assert self.agent_folder and self.driver.agent
    return load_agent(self.agent_folder, tuple(self.driver.agent.items()))

  def _depends_on(self) -> Mapping[str, Any]:
    return {
      **self.driver.model_dump(),
      'packages': self.driver.packages(),
      'tracks': self.tracks,
      'first': self.first,
      'max_steps': self.max_steps,
      'code': code(),
    }


class EpisodesJob(Protocol):
  """A job that drives episodes and writes what came of them."""

  @property
  def num_episodes(self) -> int: ...

  @property
  def path(self) -> Path: ...

  def result(self) -> Any:
    """Returns what is in `path`; None if it is missing, damaged or foreign."""
    ...


_Job = TypeVar('_Job', bound=EpisodesJob)


def run_missing(
  jobs: Sequence[_Job],
  title: str,
  unit: str,
  total: int,
  run: Callable[[Sequence[_Job]], None],
) -> None:
  """Runs the jobs without a result, and shows how many episodes are driven.

  Args:
    jobs: jobs of the same work.
    title: description of the work.
    unit: what an episode is called there, in the plural.
    total: number of episodes, of which these jobs are the last ones.
    run: runs jobs, in any order and in any processes.
  """
  todo = []
  for job in jobs:
    if job.result() is None:
      job.path.unlink(missing_ok=True)
      todo.append(job)
  known = total - sum(job.num_episodes for job in jobs)

  def count() -> int:
    return known + sum(job.num_episodes for job in jobs if job.path.exists())

  with progress.watching(title, unit, total, count):
    run(todo)


@functools.cache
def code() -> str:
  """Returns the digest of the code that affects an episode."""
  return digests.of_code([*_CODE, sys.modules[__name__]])


def _policy_seed(track_seed: int) -> np.random.SeedSequence:
  # A child, because Gymnasium draws the track from the sequence itself.
  [child] = np.random.SeedSequence([track_seed]).spawn(1)
  return child


@functools.lru_cache(maxsize=1)  # Loaded once for all jobs of a process.
def load_agent(folder: str, sha256: tuple[tuple[str, str], ...]) -> agent.Agent:
  """Loads an agent for a job, on the CPU.

  Args:
    folder: folder of the agent.
    sha256: digests of its parts, by name.

  Raises:
    errors.UserError: it is another agent.
  """
  runtime.use_cpu()
  if agent.digests(folder) != dict(sha256):
    raise errors.UserError(f'the agent in {folder} changed during its drives')
  return agent.load(folder)
