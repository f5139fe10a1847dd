"""Action logs: what was driven, as tracks and actions, in one small file.

Networks round differently on other machines, so an agent's episodes cannot be
generated again from its weights. Its actions can be replayed anywhere.

A log is an `.npz` archive, without pickled objects, of two arrays:

- `header`: uint8, a JSON document in UTF-8, see `Header`;
- `action`: float32 [N1 + N2 + ..., 3], the actions of all episodes in order.
"""

from collections.abc import Sequence
import io
import itertools
import json
import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
import zipfile

from carracing_data import digests
from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
from carracing_data import rlds_steps
from carracing_rollouts import schema
import numpy as np
import pydantic

MAX_NOISE = 10.0
_MAX_HEADER = 2**26  # Bytes: about 200,000 episodes.
_MAX_STEPS = 200_000_000  # Of all episodes: they unfold to 2.4 GB.
_RESTORE = 'restore it from another copy of the dataset, or build it again'


_Step = Annotated[int, pydantic.Field(ge=0, le=schema.MAX_STEPS_LIMIT)]
_Count = Annotated[int, pydantic.Field(ge=1, le=schema.MAX_STEPS_LIMIT)]
_Citation = Annotated[
  str, pydantic.StringConstraints(pattern=r'^[A-Za-z0-9_./:@-]{1,400}$')
]


_Flags = Annotated[str, pydantic.StringConstraints(pattern=r'^[ -~]{0,400}$')]


class LogError(errors.DatasetError):
  """A file is no action log that this version can read."""


class AgentWeights(json_documents.Document):
  """Digests of the weights of an agent's parts."""

  vae: json_documents.Sha256
  mdn_rnn: json_documents.Sha256
  controller: json_documents.Sha256


class Driver(json_documents.Document):
  """Who drove.

  Attributes:
    name: `agent`, `keyboard`, or the specification of a built-in policy.
    weights_sha256: digests of an agent; None for others.
    noise: standard deviation of the noise that was added to the actions.
    noise_share: expected share of the steps with noise; below 1 it came in
      spells.
    interventions: probability that an intervention began at a step that had
      none, see `interventions`.
  """

  name: Annotated[
    str, pydantic.StringConstraints(pattern='^[A-Za-z0-9_.:=,-]{1,100}$')
  ]
  weights_sha256: AgentWeights | None = None
  noise: Annotated[float, pydantic.Field(ge=0, le=MAX_NOISE)] = 0.0
  noise_share: Annotated[float, pydantic.Field(gt=0, le=1)] = 1.0
  interventions: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.0

  @pydantic.model_validator(mode='after')
  def _check_share(self) -> 'Driver':
    if not self.noise and self.noise_share != 1:
      raise ValueError('noise_share: there is no noise')
    return self

  @property
  def title(self) -> str:
    """Name, noise and interventions, for people."""
    title = self.name
    if self.noise:
      share = self.noise_share
      spells = '' if share == 1 else f' in {100 * share:g} % of the steps'
      title += f', noise {self.noise:g}{spells}'
    if self.interventions:
      title += f', interventions {self.interventions:g}'
    return title

  @property
  def full_title(self) -> str:
    """Title, and for an agent the beginning of the digest of its C."""
    if self.weights_sha256 is None:
      return self.title
    return f'{self.title} (C {self.weights_sha256.controller[:8]})'


class LoggedEpisode(json_documents.Document):
  """One episode of a log.

  Attributes:
    split: `train` or `validation`.
    track_seed: seed of the track.
    num_steps: number of actions, N.
    return_: sum of the rewards as `total` computes it; `return` in JSON.
    terminated: whether the last step ended the episode; if not, the step limit
      did.
    driver: who drove.
    interventions: first step and number of steps of each intervention; two in
      a row with the same action count as one.
  """

  split: Literal['train', 'validation']
  track_seed: Annotated[int, pydantic.Field(ge=0, lt=2**63)]
  num_steps: Annotated[int, pydantic.Field(ge=1, le=schema.MAX_STEPS_LIMIT)]
  return_: float = pydantic.Field(alias='return')
  terminated: bool
  driver: Driver
  interventions: list[tuple[_Step, _Count]] = []

  @pydantic.model_validator(mode='after')
  def _check_interventions(self) -> 'LoggedEpisode':
    ends = [0, *(first + steps for first, steps in self.interventions)]
    firsts = [*(first for first, _ in self.interventions), self.num_steps]
    if any(end > first for end, first in zip(ends, firsts)):
      raise ValueError('interventions: they overlap, or outlast the episode')
    if self.interventions and not self.driver.interventions:
      raise ValueError('interventions: the driver has none')
    return self

  def is_intervention(self) -> np.ndarray:
    """Returns whether each action was imposed, bool [N]."""
    found = np.zeros(self.num_steps, bool)
    for first, steps in self.interventions:
      found[first : first + steps] = True
    return found


class Header(json_documents.Document):
  """Description of a log.

  Attributes:
    schema_version: version of this format; in 1 there were no interventions.
    seed: seed of tracks, policies, noise and interventions; None in version 1
      and in a selection.
    simulator: simulator that was driven, a key of `environment.SIMULATORS`.
    packages: versions of the packages that affect what was driven.
    max_steps: steps after which an episode was truncated.
    selected_from: citations of the datasets whose episodes these are; absent if
      they were recorded.
    selected_by: flags of `tools.select_episodes` that selected them.
    episodes: the episodes, in order.
  """

  schema_version: Literal[1, 2] = 2
  seed: Annotated[int, pydantic.Field(ge=0, lt=2**63)] | None = None
  simulator: json_documents.Name
  packages: dict[json_documents.Name, json_documents.Version]
  max_steps: Annotated[int, pydantic.Field(ge=1, le=schema.MAX_STEPS_LIMIT)]
  selected_from: list[_Citation] = []
  selected_by: _Flags = ''
  episodes: Annotated[list[LoggedEpisode], pydantic.Field(min_length=1)]

  @pydantic.model_validator(mode='after')
  def _check_version(self) -> 'Header':
    seedless = self.schema_version == 1 or bool(self.selected_from)
    if seedless != (self.seed is None):
      raise ValueError(
        'seed: version 1 has none, and version 2 has one unless it selects'
      )
    if self.selected_by and not self.selected_from:
      raise ValueError('selected_by: it names no dataset')
    if self.schema_version == 1 and any(x.interventions for x in self.episodes):
      raise ValueError('episodes: version 1 has no interventions')
    return self


class ActionLog(NamedTuple):
  """An action log.

  Attributes:
    header: description of the log.
    actions: actions of each episode, float32 [N, 3]: steering −1..1, gas 0..1,
      brake 0..1.
  """

  header: Header
  actions: Sequence[np.ndarray]

  def of_split(self, split: str) -> list[tuple[LoggedEpisode, np.ndarray]]:
    """Returns the episodes of a split with their actions, in order."""
    pairs = zip(self.header.episodes, self.actions, strict=True)
    return [pair for pair in pairs if pair[0].split == split]


def total(reward: np.ndarray) -> float:
  """Returns the return of an episode, correctly rounded.

  Args:
    reward: float32 [N].
  """
  return math.fsum(reward.tolist())


def logged(
  split: str,
  track_seed: int,
  driver: Driver,
  actions: np.ndarray,
  is_intervention: np.ndarray,
  reward: np.ndarray,
  terminated: bool,
) -> tuple[LoggedEpisode, np.ndarray]:
  """Returns an episode of N steps as a log has it, with its actions.

  Args:
    split: `train` or `validation`.
    track_seed: seed of the track.
    driver: who drove.
    actions: float32 [N, 3].
    is_intervention: bool [N]: whether each action was imposed.
    reward: float32 [N].
    terminated: whether the last step ended the episode.
  """
  episode = LoggedEpisode.model_validate(
    {
      'split': split,
      'track_seed': track_seed,
      'num_steps': len(actions),
      'return': total(reward),
      'terminated': terminated,
      'driver': driver,
      'interventions': _spans(actions, is_intervention),
    }
  )
  return episode, actions


def _spans(
  actions: np.ndarray, is_intervention: np.ndarray
) -> list[tuple[int, int]]:
  """Returns the first step and the number of steps of each intervention."""
  imposed = [
    tuple(action) if is_imposed else None
    for action, is_imposed in zip(actions, is_intervention, strict=True)
  ]
  found, first = [], 0
  for action, steps in itertools.groupby(imposed):
    count = len(list(steps))
    if action is not None:
      found.append((first, count))
    first += count
  return found


def write(path: Path, log: ActionLog) -> None:
  """Writes a log atomically; the same log always gives the same bytes.

  Raises:
    LogError: an episode is invalid, e.g. an action is not finite.
    errors.UserError: the file cannot be written.
  """
  _check_episodes(log, 'the log to write')
  content = log.header.model_dump(by_alias=True)
  if not log.header.selected_from:  # As before there were selections.
    del content['selected_from'], content['selected_by']
  header = json.dumps(content, allow_nan=False)

  def save(temporary: Path) -> None:
    # Given a file, NumPy does not append a suffix to its name.
    with temporary.open('wb') as file:
      np.savez_compressed(
        file,
        header=np.frombuffer(header.encode(), np.uint8),
        action=np.concatenate(log.actions, dtype=np.float32),
      )

  files.replace(path, save)


def read(path: str | os.PathLike[str]) -> ActionLog:
  """Reads a log; it may be from an untrusted source.

  Raises:
    LogError: the file is missing, no action log, of another version, or
      damaged; the message names the problem.
    errors.UserError: the operating system cannot read it.
  """
  return parse(read_bytes(path), str(path))


def read_bytes(path: str | os.PathLike[str]) -> bytes:
  """Returns the content of a file that `parse` takes.

  Raises:
    LogError: the file is missing.
    errors.UserError: the operating system cannot read it.
  """
  try:
    return files.read_bytes(files.expand(path))
  except FileNotFoundError:
    raise LogError(
      f'there is no action log {path}; record one with: python -m tools.record'
      f' --output={path} --agent=AGENT'
    ) from None


def parse(content: bytes, source: str) -> ActionLog:
  """Parses the content of a file.

  Args:
    content: bytes of the file.
    source: origin of the bytes, for error messages.

  Raises:
    LogError: see `read`.
  """
  try:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
      if sorted(archive.namelist()) != ['action.npy', 'header.npy']:
        raise ValueError('it does not hold header and action alone')
      text = _array(archive, 'header.npy', _MAX_HEADER).tobytes()
      header = json_documents.parse(text, Header, source)
      counts = [episode.num_steps for episode in header.episodes]
      if sum(counts) > _MAX_STEPS:
        raise ValueError(f'its episodes have more than {_MAX_STEPS:,} steps')
      num_bytes = sum(counts) * rlds_steps.ACTION_SIZE * 4 + 1024
      action = _array(archive, 'action.npy', num_bytes)
  except errors.UserError as error:  # Told already.
    raise LogError(str(error)) from None
  except Exception as error:  # What the libraries raise depends on the damage.
    reason = str(error).splitlines() or [type(error).__name__]
    raise LogError(
      f'{source} is no action log, or a damaged one ({reason[0][:80]})'
    ) from None
  if action.dtype != np.float32 or action.shape != (sum(counts), 3):
    raise LogError(
      f'{source} is damaged: action is {action.dtype}{list(action.shape)},'
      f' not float32[{sum(counts)}, 3]'
    )
  log = ActionLog(header, np.split(action, np.cumsum(counts)[:-1]))
  _check_episodes(log, source)
  return log


def _array(archive: zipfile.ZipFile, name: str, max_bytes: int) -> np.ndarray:
  """Reads an array that takes at most `max_bytes`, in small pieces."""
  member = archive.getinfo(name)  # What it holds beyond its size is not read.
  if member.file_size > max_bytes:
    raise ValueError(f'{name} is larger than {max_bytes:,} bytes')
  # Other methods unfold without a bound.
  if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    raise ValueError(f'{name} is oddly compressed')
  with archive.open(name) as file:
    return np.lib.format.read_array(file, allow_pickle=False)


def _check_episodes(log: ActionLog, source: str) -> None:
  """Raises LogError if an episode contradicts the header or the game."""
  max_steps = log.header.max_steps
  low, high = rlds_steps.ACTION_LOW, rlds_steps.ACTION_HIGH
  counts = [episode.num_steps for episode in log.header.episodes]
  if [np.shape(x) for x in log.actions] != [(n, 3) for n in counts]:
    raise LogError(
      f'{source} is damaged: the actions of its episodes are not [num_steps, 3]'
    )
  pairs = zip(log.header.episodes, log.actions)
  for index, (episode, actions) in enumerate(pairs):
    steps = episode.num_steps
    if steps > max_steps or (steps < max_steps and not episode.terminated):
      raise LogError(
        f'{source} is damaged: episode {index} has {steps} steps and'
        f' terminated={episode.terminated}, with max_steps={max_steps}'
      )
    inside = ((actions >= low) & (actions <= high)).all(axis=1)  # Nor is NaN.
    if not inside.all():
      step = int(inside.argmin())
      raise LogError(
        f'{source} is damaged: episode {index} has the action'
        f' {actions[step].tolist()} at step {step}, not within'
        f' {low.tolist()}..{high.tolist()}'
      )
    for first, count in episode.interventions:
      if (actions[first : first + count] != actions[first]).any():
        raise LogError(
          f'{source} is damaged: episode {index} changes its action within the'
          f' intervention at step {first}'
        )


def of_dataset(folder: Path, config: Any) -> ActionLog:
  """Reads the log that belongs to a dataset.

  Args:
    folder: folder of the dataset.
    config: config in its metadata, with `actions_sha256`.

  Raises:
    LogError: the log is missing, or not the one that was replayed.
  """
  path = folder / schema.ACTION_LOG
  try:
    content = files.read_bytes(path)
  except FileNotFoundError:
    raise LogError(f'{path} is missing; {_RESTORE}') from None
  if digests.of_bytes(content) != config['actions_sha256']:
    raise LogError(f'{path} is not the log that was replayed; {_RESTORE}')
  return parse(content, str(path))
