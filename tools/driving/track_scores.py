"""The returns of a driver on a set of tracks: evaluation.json, histogram.png.

Finished jobs are kept in a folder below the output directory until all are
finished, so an evaluation can be interrupted at any moment. A finished one can
be extended by more tracks.
"""

from collections.abc import Sequence
import itertools
import os
from pathlib import Path
from typing import Any

from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
from carracing_rollouts import action_log
from carracing_rollouts import environment
from carracing_rollouts import schema
from carracing_rollouts import scores
from carracing_rollouts import tracks as tracks_lib
from models import agent
import numpy as np
import pydantic
from tools.driving import jobs
from tools.showing import pictures

FILE = 'evaluation.json'
HISTOGRAM = 'histogram.png'
_SIMULATOR = 'gymnasium'
_STAGING = '.unfinished'
_SUBJECT = 'subject.json'
_SEAL = 'sha256'


class Scored(json_documents.Document):
  """A driver as `evaluation.json` names it.

  Attributes:
    agent: digests of the weights of an agent's parts; None for a policy.
    policy: specification of a policy, see `policies.make`; None for an agent.
  """

  agent: dict[str, json_documents.Sha256] | None
  policy: str | None

  @pydantic.model_validator(mode='after')
  def _check_one(self) -> 'Scored':
    if bool(self.agent) == bool(self.policy):
      raise ValueError('it must name an agent or a policy, and not both')
    return self


class Subject(json_documents.Document):
  """What an evaluation is of.

  Attributes:
    driver: agent or policy.
    tracks: name of the set of tracks, a key of `tracks.SETS`.
    max_steps: time limit of an episode.
    packages: what affects an episode besides them, see `jobs.versions`.
  """

  driver: Scored
  tracks: str
  max_steps: int = pydantic.Field(ge=1, le=schema.MAX_STEPS_LIMIT)
  packages: dict[str, str]


class TrackScore(json_documents.Document):
  """One episode.

  Attributes:
    seed: seed of the track.
    return_: sum of the rewards, float32 each, in float64; `return` in JSON.
    steps: number of steps, at most the time limit.
    completed: whether the car finished the lap.
  """

  seed: int
  return_: float = pydantic.Field(alias='return', le=1000)  # 1000 is a lap's.
  steps: int = pydantic.Field(ge=1, le=schema.MAX_STEPS_LIMIT)
  completed: bool


class Evaluation(json_documents.Document):
  """`evaluation.json`: the tracks are the first ones of their set, in order."""

  subject: Subject
  summary: scores.Summary
  drives: list[TrackScore] = pydantic.Field(min_length=1)
  sha256: json_documents.Sha256

  @pydantic.model_validator(mode='after')
  def _check_drives(self) -> 'Evaluation':
    for drive in self.drives:
      # A step costs 0.1, and leaving the playing field 100.
      least = -101 - 0.1 * drive.steps
      if drive.steps > self.subject.max_steps or drive.return_ < least:
        raise ValueError(
          f'no car gets {drive.return_:g} in {drive.steps} steps of at most'
          f' {self.subject.max_steps}'
        )
    found, expected = (
      np.array([*x.model_dump().values()], float)  # None becomes NaN.
      for x in (self.summary, _summary(self.drives))
    )
    if not np.allclose(found, expected, rtol=1e-9, equal_nan=True):
      raise ValueError('the summary is not that of the drives')
    return self


class EvaluationError(errors.UserError):
  """An evaluation cannot start, continue or be read."""


def evaluate(
  driver: action_log.Driver,
  agent_folder: str | os.PathLike[str] | None,
  tracks: str,
  episodes: int,
  output_dir: str | os.PathLike[str],
  execute: jobs.Execute,
  max_steps: int = environment.MAX_STEPS,
) -> Evaluation:
  """Evaluates a driver, as far as the output directory does not hold it yet.

  The driver is an agent without noise, or a policy, which has no folder. It
  drives the first `episodes` tracks of the set that `tracks` names; `execute`
  runs jobs, in any order and in any processes.

  Raises:
    EvaluationError: the set has fewer tracks; or the output directory holds
      another evaluation, or one of more tracks.
    errors.DocumentError: `evaluation.json` is damaged.
    errors.UserError: the output directory is not writable, or another process
      is writing to it.
  """
  if episodes > len(tracks_lib.SETS[tracks]):
    raise EvaluationError(
      f'there are {len(tracks_lib.SETS[tracks]):,} {tracks} tracks, not'
      f' {episodes:,}'
    )
  weights = driver.weights_sha256
  subject = Subject(
    driver=Scored(agent=None, policy=driver.name)
    if weights is None
    else Scored(agent=weights.model_dump(), policy=None),
    tracks=tracks,
    max_steps=max_steps,
    packages=jobs.versions(driver, _SIMULATOR),
  )
  folder = files.expand(output_dir).absolute()
  found = _found(folder, subject, episodes)
  # Without a lock: finished evaluations may be read-only.
  complete = (folder / HISTOGRAM).exists()
  if found is not None and len(found.drives) == episodes and complete:
    return found
  with files.locked(files.claim_folder(folder)), files.write_errors(folder):
    found = _found(folder, subject, episodes)
    known = [] if found is None else found.drives
    if len(known) < episodes:
      staged = folder / _STAGING
      files.refuse_link(staged)
      staged.mkdir(exist_ok=True)
      files.remove_temporary(staged)
      if files.foreign(staged, rf'{_SUBJECT}|{jobs.FILES}'):
        raise EvaluationError(
          f'{staged} is not of this program; choose another --output_dir'
        )
      _claim(staged / _SUBJECT, subject)
      seeds = tracks_lib.SETS[tracks][len(known) : episodes]
      drives = [
        jobs.Drive(
          driver, track, jobs.policy_seed(track), _SIMULATOR, max_steps
        )
        for track in seeds
      ]
      driven = jobs.run(
        [drives], agent_folder, staged, execute, 'evaluation', episodes
      )
      known = [
        *known,
        *itertools.starmap(_score, zip(seeds, driven, strict=True)),
      ]
    save(folder, _sealed(subject, known))
    files.remove_staging(folder / _STAGING, rf'{_SUBJECT}|{jobs.FILES}')
    return read(folder / FILE)


def read(
  path: Path, advice: str = 'make it again with python -m tools.evaluate'
) -> Evaluation:
  """Reads `evaluation.json`; `advice` says what to do if it is damaged.

  Raises:
    FileNotFoundError: the file does not exist.
    errors.DocumentError: it is damaged.
    errors.UserError: the operating system cannot read it.
  """
  try:
    found = json_documents.read(path, Evaluation)
    if not json_documents.is_sealed(found.model_dump(by_alias=True), _SEAL):
      raise errors.DocumentError(
        f'{path} is damaged: its content does not match its digest'
      )
    sets = tracks_lib.SETS | tracks_lib.EARLIER_SETS
    of_set = sets.get(found.subject.tracks, ())
    seeds = [drive.seed for drive in found.drives]
    if seeds != [*of_set[: len(seeds)]]:
      raise errors.DocumentError(
        f'{path} is damaged: its tracks are not the first ones of a set'
      )
  except errors.DocumentError as error:
    raise errors.DocumentError(f'{error}; {advice}') from None
  return found


def of_agent(path: Path, agent_folder: str | os.PathLike[str]) -> Evaluation:
  """Reads `evaluation.json` and checks that it is of the agent in a folder.

  Raises:
    EvaluationError: it is of another agent or a policy.
    weights.WeightsError: the agent is missing or damaged.
    FileNotFoundError, errors.UserError: see `read`.
  """
  found = read(path)
  if found.subject.driver.agent != agent.digests(agent_folder):
    raise EvaluationError(
      f'{path} is not the score of the agent in {agent_folder}; make it with:'
      f' python -m tools.evaluate --agent={agent_folder} --output_dir=SCORE'
    )
  return found


def save(folder: Path, found: Evaluation) -> None:
  """Writes both files, the document last."""
  picture = pictures.plot_returns(
    [drive.return_ for drive in found.drives],
    [drive.completed for drive in found.drives],
    scores.describe(found.summary),
    'tracks',
  )
  files.replace(
    folder / HISTOGRAM,
    lambda file: picture.savefig(file, dpi=120, format='png'),
  )
  json_documents.write(folder / FILE, found.model_dump(by_alias=True))


def _score(track: int, driven: jobs.Driven) -> TrackScore:
  return TrackScore.model_validate(
    {
      'seed': track,
      'return': float(driven.scores()[-1]),
      'steps': len(driven.action),
      'completed': driven.completed,
    }
  )


def _summary(drives: Sequence[TrackScore]) -> scores.Summary:
  return scores.summarize(
    np.array([drive.return_ for drive in drives]),
    np.array([drive.completed for drive in drives]),
  )


def _sealed(subject: Subject, drives: Sequence[TrackScore]) -> Evaluation:
  content = {
    'subject': subject.model_dump(),
    'summary': _summary(drives).model_dump(),
    'drives': [drive.model_dump(by_alias=True) for drive in drives],
  }
  return Evaluation.model_validate(json_documents.sealed(content, _SEAL))


def _found(folder: Path, subject: Subject, episodes: int) -> Evaluation | None:
  """Returns the evaluation in a folder; None if there is none."""
  try:
    found = read(folder / FILE, 'delete it, and run the same command again')
  except FileNotFoundError:
    return None
  # A finished evaluation can be shown with any packages, but not extended.
  finished = len(found.drives) == episodes
  _check_same(folder, found.subject, subject, with_packages=not finished)
  if len(found.drives) > episodes:
    raise EvaluationError(
      f'{folder} holds an evaluation over {len(found.drives)} tracks; pass'
      f' --episodes={len(found.drives)} or more, or choose another --output_dir'
    )
  return found


def _claim(path: Path, subject: Subject) -> None:
  """Makes a staging folder that of a subject."""
  try:
    found = json_documents.read(path, Subject)
  except (FileNotFoundError, errors.DocumentError):
    pass
  else:
    _check_same(path.parents[1], found, subject, with_packages=False)
  # The name of a result repeats its subject and the packages, so none can be
  # mistaken: those of other code are driven again.
  json_documents.write(path, subject.model_dump())


def _check_same(
  folder: Path, found: Subject, wanted: Subject, with_packages: bool
) -> None:
  """Raises EvaluationError, naming the differences, if subjects differ."""
  ours, theirs = (_flat(x, with_packages) for x in (found, wanted))
  differences = [
    f'{name} {_shown(ours.get(name))}, not {_shown(theirs.get(name))}'
    for name in {**ours, **theirs}
    if ours.get(name) != theirs.get(name)
  ]
  if differences:
    raise EvaluationError(
      f'{folder} holds an evaluation of something else:'
      f' {"; ".join(differences)}; choose another --output_dir'
    )


def _flat(subject: Subject, with_packages: bool) -> dict[str, Any]:
  packages = subject.packages if with_packages else {}
  return {
    'policy': subject.driver.policy,
    'tracks': subject.tracks,
    'max_steps': subject.max_steps,
    **(subject.driver.agent or {}),
    **{f'package {name}': version for name, version in packages.items()},
  }


def _shown(value: str | int | None) -> str:
  text = 'none' if value is None else str(value)
  return text[:8] if len(text) == 64 else text  # Of a digest.
