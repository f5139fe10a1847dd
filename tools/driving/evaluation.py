"""Evaluates a driver: (driver, set of tracks) → evaluation.json, histogram.png.

Finished jobs are kept in a folder below the output directory until all are
finished, so an evaluation can be interrupted at any moment. A finished one can
be extended by more tracks.
"""

from collections.abc import Callable, Sequence
import os
from pathlib import Path
import shutil

from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
from carracing_data import shards
from carracing_rollouts import environment
from carracing_rollouts import scores
from carracing_rollouts import tracks as tracks_lib
from models import agent
import numpy as np
from tools.driving import drives
from tools.showing import pictures

FILE = 'evaluation.json'
HISTOGRAM = 'histogram.png'
_STAGING = '.unfinished'
_SUBJECT = 'subject.json'
_SEAL = 'sha256'


class Subject(json_documents.Document):
  """What an evaluation is of.

  Attributes:
    driver: agent or policy.
    tracks: name of the set of tracks, a key of `tracks.SETS`.
    max_steps: time limit of an episode.
    packages: versions of the packages that affect an episode, and the digest of
      the `code` of this project that does.
  """

  driver: drives.Driver
  tracks: str
  max_steps: int
  packages: dict[str, str]


class Evaluation(json_documents.Document):
  """`evaluation.json`: the tracks are the first ones of their set, in order."""

  subject: Subject
  summary: scores.Summary
  drives: list[drives.Drive]
  sha256: json_documents.Sha256


class EvaluationError(errors.UserError):
  """An evaluation cannot start, continue or be read."""


def evaluate(
  driver: drives.Driver,
  agent_folder: str | os.PathLike[str] | None,
  tracks: str,
  episodes: int,
  output_dir: str | os.PathLike[str],
  run: Callable[[Sequence[drives.Job]], None],
  max_steps: int = environment.MAX_STEPS,
) -> Evaluation:
  """Evaluates a driver, as far as the output directory does not hold it yet.

  Args:
    driver: agent or policy.
    agent_folder: folder of the agent; None for a policy.
    tracks: name of the set of tracks.
    episodes: number of tracks, the first ones of the set.
    output_dir: output directory.
    run: runs jobs, in any order and in any processes.
    max_steps: time limit.

  Returns:
    The evaluation.

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
  subject = Subject(
    driver=driver,
    tracks=tracks,
    max_steps=max_steps,
    packages={**driver.packages(), 'code': drives.code()},
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
      jobs = _jobs(subject, agent_folder, len(known), episodes, folder)
      drives.run_missing(jobs, 'evaluation', 'tracks', episodes, run)
      known = [*known, *_collect(jobs)]
    return _finish(folder, subject, known)


def read(
  path: Path, advice: str = 'make it again with python -m tools.evaluate'
) -> Evaluation:
  """Reads `evaluation.json`.

  Args:
    path: the file.
    advice: what to do if it is damaged.

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
    of_set = tracks_lib.SETS.get(found.subject.tracks, ())
    seeds = [drive.seed for drive in found.drives]
    if not seeds or seeds != [*of_set[: len(seeds)]]:
      raise errors.DocumentError(
        f'{path} is damaged: its tracks are not the first ones of a set'
      )
  except errors.DocumentError as error:
    raise errors.DocumentError(f'{error}; {advice}') from None
  return found


def of_agent(path: Path, agent_folder: str | os.PathLike[str]) -> Evaluation:
  """Reads `evaluation.json` and checks that it is of an agent.

  Args:
    path: the file.
    agent_folder: folder of the agent.

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
  pictures.save_returns(
    folder / HISTOGRAM,
    [drive.return_ for drive in found.drives],
    [drive.completed for drive in found.drives],
    scores.describe(found.summary),
  )
  json_documents.write(folder / FILE, found.model_dump(by_alias=True))


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


def _check_same(
  folder: Path, found: Subject, wanted: Subject, with_packages: bool = True
) -> None:
  """Raises EvaluationError, naming the differences, if subjects differ."""
  pairs = [
    ('policy', found.driver.policy, wanted.driver.policy),
    ('tracks', found.tracks, wanted.tracks),
    ('max_steps', found.max_steps, wanted.max_steps),
  ]
  for kind, ours, theirs in (
    ('', found.driver.agent, wanted.driver.agent),
    ('package ', found.packages, wanted.packages if with_packages else None),
  ):
    if kind and theirs is None:
      continue
    ours, theirs = ours or {}, theirs or {}
    pairs += [
      (f'{kind}{name}', ours.get(name), theirs.get(name))
      for name in sorted({*ours, *theirs})
    ]
  differences = [
    f'{name} {_shown(ours)}, not {_shown(theirs)}'
    for name, ours, theirs in pairs
    if ours != theirs
  ]
  if differences:
    raise EvaluationError(
      f'{folder} holds an evaluation of something else:'
      f' {"; ".join(differences)}; choose another --output_dir'
    )


def _shown(value: str | int | None) -> str:
  text = 'none' if value is None else str(value)
  return text[:8] if len(text) == 64 else text  # Of a digest.


def _jobs(
  subject: Subject,
  agent_folder: str | os.PathLike[str] | None,
  first: int,
  episodes: int,
  folder: Path,
) -> list[drives.Job]:
  """Enters the staging folder; returns the jobs that fill it."""
  staged = folder / _STAGING
  staged.mkdir(exist_ok=True)
  try:
    _check_same(
      folder, json_documents.read(staged / _SUBJECT, Subject), subject
    )
  except (FileNotFoundError, errors.DocumentError):
    # Each result repeats what it depends on, so none can be mistaken.
    json_documents.write(staged / _SUBJECT, subject.model_dump())
  shards.remove_temporary(staged)
  seeds = tracks_lib.SETS[subject.tracks][:episodes]
  starts = range(first, episodes, drives.TRACKS_PER_JOB)
  return [
    drives.Job(
      driver=subject.driver,
      agent_folder=(
        None
        if agent_folder is None
        else os.path.abspath(files.expand(agent_folder))
      ),
      tracks=subject.tracks,
      first=start,
      seeds=tuple(seeds[start : start + drives.TRACKS_PER_JOB]),
      max_steps=subject.max_steps,
      staging=os.fspath(staged),
    )
    for start in starts
  ]


def _collect(jobs: Sequence[drives.Job]) -> list[drives.Drive]:
  collected = []
  for job in jobs:
    result = job.result()
    if result is None:
      raise EvaluationError(
        f'{job.path} was not written although its job ended; do all workers'
        ' see the same file system, with the same packages?'
      )
    collected += result
  return collected


def _finish(
  folder: Path, subject: Subject, of_tracks: Sequence[drives.Drive]
) -> Evaluation:
  """Writes both files, the document last, and removes the staging folder."""
  summary = scores.summarize(
    np.array([drive.return_ for drive in of_tracks]),
    np.array([drive.completed for drive in of_tracks]),
  )
  content = {
    'subject': subject.model_dump(),
    'summary': summary.model_dump(),
    'drives': [drive.model_dump(by_alias=True) for drive in of_tracks],
  }
  save(folder, Evaluation.model_validate(json_documents.sealed(content, _SEAL)))
  shutil.rmtree(folder / _STAGING, ignore_errors=True)
  return read(folder / FILE)
