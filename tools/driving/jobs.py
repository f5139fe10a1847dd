"""Drives tracks in jobs: (driver, track, seed) → actions, rewards and the end.

What is driven depends on these three and on the versions of the packages, not
on the other tracks of a job. A job is a pure function: it writes one file,
named by all that shapes its content, and is safe to repeat. So work that is
interrupted goes on, and loses only the jobs under way.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
import importlib.metadata
import io
import os
from pathlib import Path
import sys
from typing import Any, NamedTuple

from carracing_data import digests
from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
from carracing_data import progress
from carracing_data import rlds_steps
from carracing_data import runtime
from carracing_rollouts import action_log
from carracing_rollouts import culled_car_racing
from carracing_rollouts import environment
from carracing_rollouts import interventions
from carracing_rollouts import policies
from carracing_rollouts import rollout
from carracing_rollouts import scores
from carracing_rollouts import sketched_car_racing
from models import agent
from models import controller
from models import lstm
from models import mdn_rnn
from models import strided_convolution
from models import vae
from models import world_model
import numpy as np
from tools.driving import drivers
from tools.driving import keyboard
from tools.driving import probes

# About 10 s of work. Each track of a larger batch takes as long.
_DRIVES_PER_JOB = 8
FILES = r'[0-9a-f]{64}\.npz'  # Names of results, as a regular expression.
_PACKAGES = ('numpy', 'opencv-python-headless')
_PACKAGES_OF_AGENTS = ('flax', 'jax', 'jaxlib')
# Results of other code are redone, not mixed with those of this one.
_CODE = (
  agent,
  controller,
  culled_car_racing,
  drivers,
  environment,
  interventions,
  mdn_rnn,
  policies,
  probes,
  lstm,
  rollout,
  rlds_steps,
  sketched_car_racing,
  strided_convolution,
  vae,
  world_model,
)


class Drive(NamedTuple):
  """What is to be driven.

  Attributes:
    driver: who drives.
    track: seed of the track.
    seed: seed of the random draws of a policy, and of noise.
    simulator: a key of `environment.SIMULATORS`.
    max_steps: steps after which the episode is truncated.
  """

  driver: action_log.Driver
  track: int
  seed: np.random.SeedSequence
  simulator: str
  max_steps: int


class Driven(NamedTuple):
  """An episode of N steps.

  Attributes:
    action: float32 [N, 3]: steering −1..1, gas 0..1, brake 0..1.
    is_intervention: bool [N]: whether the action was imposed.
    reward: float32 [N].
    terminated: whether the last step ended it; if not, the step limit did.
  """

  action: np.ndarray
  is_intervention: np.ndarray
  reward: np.ndarray
  terminated: bool

  def scores(self) -> np.ndarray:
    """Returns the sum of the rewards before each frame, float64 [N + 1]."""
    return np.cumsum([0, *self.reward], dtype=np.float64)

  @property
  def completed(self) -> bool:
    """Whether the car finished the lap."""
    return bool(environment.lap_completed(self.terminated, self.reward[-1]))

  def ending(self) -> str:
    """Returns how the episode ended, for people."""
    return scores.ending(self.terminated, self.reward[-1])


# What is stored of each step.
_FIELDS = tuple(x for x in Driven._fields if x != 'terminated')


def drive(
  environments: environment.Environments,
  policy: policies.Policy,
  seeds: Sequence[np.random.SeedSequence],
  interventions: Sequence[float] | None = None,
) -> list[Driven]:
  """Drives B episodes; see `rollout.play` for the arguments."""
  return collect(rollout.play(environments, policy, seeds, interventions))


def collect(steps: Iterable[rollout.Step]) -> list[Driven]:
  """Returns what was driven in the steps of a batch of episodes."""
  rows: dict[int, list[tuple]] = {}  # The first step has all episodes in order.
  for step in steps:
    for i, *row in zip(
      step.ids,
      step.action,
      step.is_intervention,
      step.reward,
      step.terminated,
    ):
      rows.setdefault(i, []).append(tuple(row))
  return [
    Driven(*map(np.stack, fields), terminated=bool(terminated[-1]))
    for *fields, terminated in (zip(*row) for row in rows.values())
  ]


def policy_seed(track: int) -> np.random.SeedSequence:
  """Returns the seed of a policy on a track of a set, see `tracks`."""
  # A child, because Gymnasium draws the track from the sequence itself.
  [child] = np.random.SeedSequence([track]).spawn(1)
  return child


@dataclasses.dataclass(frozen=True)
class Job:
  """Drives some tracks and writes the result, unless it is already there.

  Picklable, so that any process that sees the folders can run it.

  Attributes:
    drives: what is driven; they differ in track, seed and disturbances alone.
    agent_folder: absolute folder of the agent; None if no agent drives.
    folder: absolute folder of the results, shared by all processes.
  """

  drives: tuple[Drive, ...]
  agent_folder: str | None
  folder: str

  @functools.cached_property
  def path(self) -> Path:
    """File of the result."""
    first = self.drives[0]
    shaped_by = [
      [x.driver.model_dump(), x.track, x.seed.generate_state(4).tolist()]
      for x in self.drives
    ]
    version = versions(first.driver, first.simulator)
    game = first.simulator, first.max_steps, version
    return Path(self.folder, f'{json_documents.digest([shaped_by, game])}.npz')

  def result(self) -> list[Driven] | None:
    """Returns what was driven; None if it is missing, damaged or foreign."""
    try:
      with np.load(io.BytesIO(files.read_bytes(self.path))) as archive:
        stored = {name: archive[name] for name in archive.files}
      if stored.pop('digest') != self._digest(stored):
        return None
      cuts = np.cumsum(stored.pop('num_steps'))[:-1]
      terminated = stored.pop('terminated')
      parts = [np.split(stored[name], cuts) for name in _FIELDS]
    except Exception:  # What NumPy raises depends on the damage.
      return None
    return [
      Driven(*of_one, terminated=bool(end))
      for end, *of_one in zip(terminated, *parts, strict=True)
    ]

  def _digest(self, stored: Mapping[str, np.ndarray]) -> str:
    """Returns a digest of what is stored, and of whose it is."""
    return f'{self.path.stem} {digests.of_record(stored)}'

  def __call__(self) -> None:
    if self.result() is not None:
      return
    runtime.prepare()
    first = self.drives[0]
    game = environment.SIMULATORS[first.simulator]
    if drivers.by_hand(first.driver):
      game = keyboard.Environments
    driven = drive(
      game([x.track for x in self.drives], first.max_steps),
      drivers.policy([x.driver for x in self.drives], self.agent_folder),
      [x.seed for x in self.drives],
      [x.driver.interventions for x in self.drives],
    )

    stored: dict[str, Any] = {
      name: np.concatenate([getattr(x, name) for x in driven])
      for name in _FIELDS
    }
    stored['num_steps'] = np.array([len(x.action) for x in driven])
    stored['terminated'] = np.array([x.terminated for x in driven])

    def save(path: Path) -> None:
      # Given a file, NumPy does not append a suffix to its name.
      with path.open('wb') as file:
        np.savez_compressed(file, digest=self._digest(stored), **stored)

    files.replace(self.path, save)


Execute = Callable[[Sequence[Job]], None]


def run(
  groups: Iterable[Sequence[Drive]],
  agent_folder: str | os.PathLike[str] | None,
  folder: Path,
  execute: Execute,
  title: str,
  total: int,
) -> list[Driven]:
  """Drives what is not driven yet, and shows how much is.

  Args:
    groups: what is driven; they are divided into jobs of their own.
    agent_folder: folder of the agent; None if no agent drives.
    folder: existing folder of the results.
    execute: runs jobs, in any order and in any processes.
    title: description of the work.
    total: number of episodes, with those that are already known.

  Returns:
    The episodes of all groups, in order.

  Raises:
    errors.UserError: a result cannot be written, or was damaged afterwards.
  """
  if agent_folder is not None:
    agent_folder = os.path.abspath(files.expand(agent_folder))
  jobs = [
    Job(part, agent_folder, os.path.abspath(folder))
    for drives in groups
    for part in _parts(drives)
  ]
  todo = [job for job in jobs if job.result() is None]
  for job in todo:
    job.path.unlink(missing_ok=True)
  files.remove_temporary(folder)
  before = total - sum(len(job.drives) for job in jobs)

  def count() -> int:
    return before + sum(len(job.drives) for job in jobs if job.path.exists())

  with progress.watching(title, 'episodes', total, count):
    execute(todo)
  results = [job.result() for job in jobs]
  found = [result for result in results if result is not None]
  if len(found) < len(results):
    raise errors.UserError(
      f'{len(results) - len(found)} of {len(results)} parts in {folder} were'
      ' damaged after they were written; run the same command again'
    )
  return [driven for result in found for driven in result]


def _parts(drives: Sequence[Drive]) -> list[tuple[Drive, ...]]:
  # A person who stops loses the track under way alone.
  by_hand = any(drivers.by_hand(drive.driver) for drive in drives)
  size = 1 if by_hand else _DRIVES_PER_JOB
  starts = range(0, len(drives), size)
  return [tuple(drives[i : i + size]) for i in starts]


def versions(driver: action_log.Driver, simulator: str) -> dict[str, str]:
  """Returns what affects an episode besides the driver and the track.

  Args:
    driver: who drives.
    simulator: a key of `environment.SIMULATORS`.

  Returns:
    Versions of packages, and the digest of the `code` of this project; of a
    person, who does not drive the same again, only those of the simulator.
  """
  of_simulator = rollout.versions(simulator)
  if drivers.by_hand(driver):
    return of_simulator
  names = _PACKAGES + (_PACKAGES_OF_AGENTS if driver.weights_sha256 else ())
  of_driver = {name: importlib.metadata.version(name) for name in names}
  return {
    **dict(sorted({**of_simulator, **of_driver}.items())),
    'code': _code(),
  }


@functools.cache
def _code() -> str:
  return digests.of_code([*_CODE, sys.modules[__name__]])
