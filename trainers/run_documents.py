"""The JSON documents of a run's folder, for whoever reads them."""

from pathlib import Path
from typing import TypeVar

from carracing_data import documents
from carracing_data import errors
import pydantic

_Schema = TypeVar('_Schema', bound=pydantic.BaseModel)


class RunError(errors.UserError):
  """A run cannot start, continue or be read."""


class Config(pydantic.RootModel):
  """`config.json`: what was asked for, by key."""

  root: dict[str, bool | int | float | str | None]


class Source(documents.Document):
  """Something that a run was made from: a dataset, weights, ...

  Attributes:
    name: of the source.
    sha256: digests of its content, by part.
  """

  name: str
  sha256: dict[str, documents.Sha256]


class Start(documents.Document):
  """What a start of a run depends on."""

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


class Run(documents.Document):
  """`run.json`: what a run was made from, and every start of it."""

  sources: dict[str, Source]
  starts: list[Start]


class Metrics(documents.Document):
  """`metrics.json`: the metrics of the exported weights.

  Attributes:
    num_steps: that the run was to take.
    step: that the weights are of.
    validation: their evaluation.
    weights_sha256: of the weights file.
  """

  num_steps: int
  step: int
  validation: dict[str, float]
  weights_sha256: documents.Sha256


def read_config(workdir: Path) -> Config | None:
  """Returns the config of a run; None if there is none.

  Raises:
    RunError: the file is damaged.
    errors.UnreadableError: the operating system cannot read it.
  """
  return _read(workdir / 'config.json', Config)


def read_run(workdir: Path) -> Run | None:
  """Returns what a run was made from; None and errors as `read_config`."""
  return _read(workdir / 'run.json', Run)


def read_metrics(workdir: Path) -> Metrics | None:
  """Returns the metrics of a finished run; None and errors as `read_config`."""
  return _read(workdir / 'metrics.json', Metrics)


def finished_metrics(workdir: Path) -> Metrics:
  """Returns the metrics of a finished run.

  Raises:
    RunError: the run is not finished, or the file is damaged.
    errors.UnreadableError: the operating system cannot read it.
  """
  metrics = read_metrics(workdir)
  if metrics is None:
    raise RunError(f'{workdir} holds no finished run: no metrics.json there')
  return metrics


def _read(path: Path, schema: type[_Schema]) -> _Schema | None:
  try:
    return documents.read(path, schema)
  except FileNotFoundError:
    return None
  except errors.DocumentError as error:
    raise RunError(
      f'{error}; put back an intact copy, or delete {path.parent} to start'
      ' again'
    ) from None
