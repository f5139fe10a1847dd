"""Reads the JSON documents in the folder of a run."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
from etils import epy
import pydantic

with epy.lazy_imports():  # It takes seconds.
  from models import weights

CURVES = 'metrics.jsonl'
# Hyperparameters of V and M that earlier code had and left unused.
_REMOVED = {'ema_decay': 0.0, 'early_stop_evaluations': 0}
_MAX_STEPS = 1_000_000_000
_Float32 = Annotated[float, pydantic.Field(ge=-3.5e38, le=3.5e38)]
_Schema = TypeVar('_Schema', bound=pydantic.BaseModel)
Curves = Mapping[str, Mapping[int, float]]  # By tag, and by step.


class RunError(errors.UserError):
  """A run cannot start, continue or be read."""


class Config(pydantic.RootModel):
  """`config.json`: the hyperparameters of the run, by key."""

  root: dict[str, bool | int | float | str | None]


class Source(json_documents.Document):
  """An input of a run: a dataset, weights, ...

  Attributes:
    name: name of the source, without what has a meaning in Markdown or HTML.
    sha256: digests of its content, by part.
  """

  name: Annotated[
    str, pydantic.StringConstraints(pattern='^[A-Za-z0-9_./:-]{1,400}$')
  ]
  sha256: Annotated[
    dict[json_documents.Name, json_documents.Sha256],
    pydantic.Field(min_length=1),
  ]


class Start(json_documents.Document):
  """One start of a run: its command, code, packages and machine."""

  time: str
  command: str
  git_revision: str | None
  host: str
  platform: str
  python: str
  packages: dict[str, str]
  device: str
  devices: int
  processes: int


class Run(json_documents.Document):
  """`run.json`: the sources and all starts of a run."""

  sources: dict[json_documents.Name, Source]
  starts: list[Start]

  @property
  def model(self) -> str:
    """What is trained: `vae`, `mdn_rnn` or `controller`."""
    kinds = {source.name.partition('/')[0] for source in self.sources.values()}
    if 'carracing_rollouts' in kinds:
      return 'vae'
    return 'mdn_rnn' if 'carracing_latents' in kinds else 'controller'


class Metrics(json_documents.Document):
  """`metrics.json`: the metrics of the exported weights.

  Attributes:
    num_steps: number of steps in the config of the run.
    step: step of the exported weights.
    validation: validation metrics of the exported weights, by name.
    weights_sha256: digest of the weights file.
  """

  num_steps: int
  step: Annotated[int, pydantic.Field(ge=0)]
  validation: dict[str, _Float32]
  weights_sha256: json_documents.Sha256


class _Line(pydantic.RootModel):
  """A line of `metrics.jsonl`: a step, and metrics by their tags."""

  model_config = pydantic.ConfigDict(strict=True)
  root: dict[str, int | _Float32]

  @pydantic.model_validator(mode='after')
  def _check_step(self) -> '_Line':
    step = self.root.get('step')
    if not (isinstance(step, int) and 0 <= step <= _MAX_STEPS):
      raise ValueError('it has no step')
    return self


def read_config(workdir: Path) -> Config | None:
  """Returns the config of a run; None if there is none.

  Raises:
    RunError: the file is damaged.
    errors.UserError: the operating system cannot read it.
  """
  return _read(workdir / 'config.json', Config)


def read_run(workdir: Path) -> Run | None:
  """Returns `run.json`; None and errors as in `read_config`."""
  return _read(workdir / 'run.json', Run)


def read_metrics(workdir: Path) -> Metrics | None:
  """Returns `metrics.json`; None and errors as in `read_config`."""
  return _read(workdir / 'metrics.json', Metrics)


def read_lines(workdir: Path) -> list[dict[str, float]]:
  """Returns the lines of `metrics.jsonl`: a step, and metrics by their tags.

  A line that a killed run has not finished is left out.

  Raises:
    RunError: a line is damaged.
    errors.UserError: the operating system cannot read the file.
  """
  path = workdir / CURVES
  try:
    *lines, _ = files.read_bytes(path).split(b'\n')
  except FileNotFoundError:
    return []
  try:
    return [
      json_documents.parse(line, _Line, f'{path}, line {number},').root
      for number, line in enumerate(lines, 1)
    ]
  except errors.DocumentError as error:
    raise RunError(f'{error}; delete it to go on without it') from None


def read_curves(workdir: Path) -> Curves:
  """Returns what a run has logged, by tags such as `train/loss`.

  Raises:
    RunError, errors.UserError: see `read_lines`.
  """
  curves: dict[str, dict[int, float]] = {}
  for line in read_lines(workdir):
    step = int(line['step'])
    for tag, value in line.items():
      if tag != 'step':
        curves.setdefault(tag, {})[step] = value
  return curves


def finished_metrics(workdir: Path) -> Metrics:
  """Returns the metrics of a finished run.

  Raises:
    RunError: the run is not finished, or a file is damaged.
    errors.UserError: the operating system cannot read it.
  """
  metrics, config = read_metrics(workdir), read_config(workdir)
  if metrics is None:
    if not workdir.exists():
      raise RunError(f'there is no folder {workdir}')
    raise RunError(f'{workdir} holds no finished run: metrics.json is missing')
  steps = metrics.num_steps
  if config is not None and (wanted := config.root.get('num_steps')) != steps:
    raise RunError(
      f'{workdir} holds no finished run: of {str(wanted)[:20]} steps it has'
      f' finished {steps}; run its command again to continue'
    )
  if (workdir / 'weights').exists():
    check_weights(workdir, metrics)
  return metrics


def check_weights(workdir: Path, metrics: Metrics) -> None:
  """Raises UserError unless metrics are those of the exported weights."""
  folder = workdir / 'weights'
  described = weights.describe(folder)  # Which is sealed.
  told = {**described.training, 'weights_sha256': described.weights_sha256}
  wanted = metrics.model_dump(exclude={'num_steps'})
  found = differences({x: told.get(x) for x in wanted}, wanted)
  run = read_run(workdir)
  if run and 'sources' in told:  # Weights of earlier code name none.
    sources = run.model_dump()['sources']
    found += [
      f'it was trained with another {role}'
      for role in other_sources(told['sources'], sources)
    ]
  if found:
    raise RunError(
      f'{folder} does not hold the weights that the run describes'
      f' ({"; ".join(found)}); delete it and {workdir / "metrics.json"}, and'
      ' rerun the same command to export them again from a checkpoint'
    )


def other_sources(
  found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> list[str]:
  """Returns the roles of sources, as in JSON, that differ in content.

  The same content may have another name, for instance a later version.
  """
  one, other = (
    {role: source['sha256'] for role, source in x.items()}
    for x in (found, wanted)
  )
  return sorted(x for x in {*one, *other} if one.get(x) != other.get(x))


def as_today(config: Mapping[str, Any], model: str) -> dict[str, Any]:
  """Returns a config of earlier code as one of today's.

  With hyperparameters that it did not have, as they were then; and without
  those that it had and did not use.
  """
  if model == 'controller':
    return {**config}
  used = {k: v for k, v in config.items() if (k, v) not in _REMOVED.items()}
  return {'architecture': 'paper', **used}


def differences(
  found: Mapping[str, Any],
  wanted: Mapping[str, Any],
  may_differ: Collection[str] = (),
) -> list[str]:
  """Describes each key with differing values, except those that may differ."""
  texts = []
  for key in sorted({*found, *wanted} - set(may_differ)):
    if found.get(key) != wanted.get(key):
      there, here = (
        repr(x[key]) if key in x else 'absent' for x in (found, wanted)
      )
      texts.append(f'{key} is {there} there and {here} here')
  return texts


def _read(path: Path, schema: type[_Schema]) -> _Schema | None:
  try:
    return json_documents.read(path, schema)
  except FileNotFoundError:
    return None
  except errors.DocumentError as error:
    raise RunError(
      f'{error}. If another version of this project wrote it, use that one; if'
      f' not, restore an intact copy, or choose another folder'
    ) from None
