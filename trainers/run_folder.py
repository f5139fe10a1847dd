"""A run's folder, the *workdir*, which explains itself.

config.json            what was asked for
run.json               what it was trained on, and every start: command, code,
                       packages, machine
parameters.txt         shapes and sizes of the parameters
checkpoints/           to continue from
events.out.tfevents.*  TensorBoard
pictures/              of the last evaluation
metrics.json           of the exported weights; there when the run is finished
weights/               what was learnt
"""

from collections.abc import Iterator, Mapping
import contextlib
import datetime
import enum
import importlib.metadata
import json
import os
from pathlib import Path
import platform
import shlex
import shutil
import subprocess
import sys
from typing import Any, NamedTuple, TypeVar

from carracing_data import documents
from carracing_data import errors
from carracing_data import places
from carracing_data import prepared
from clu import parameter_overview
import imageio.v3 as imageio
import jax
import ml_collections
from models import weights
import pydantic
import tensorflow_datasets as tfds
from trainers import devices

_Schema = TypeVar('_Schema', bound=pydantic.BaseModel)
_PACKAGES = (
  'flax',
  'grain',
  'jax',
  'jaxlib',
  'numpy',
  'optax',
  'orbax-checkpoint',
)


class RunError(errors.UserError):
  """A run cannot start or continue."""


class Standing(enum.IntEnum):
  """How far a run is."""

  OPEN = 0
  FINISHED = 1
  WEIGHTS_MISSING = 2  # Finished, but its weights were deleted.


class Metrics(documents.Document):
  """The metrics of the exported weights.

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


class Config(pydantic.RootModel):
  """The config of a run, by key."""

  root: dict[str, bool | int | float | str | None]


class Source(documents.Document):
  """The dataset that a run was trained on."""

  name: str
  content_sha256: dict[str, documents.Sha256]


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
  """What a run was trained on, and every start of it."""

  dataset: Source
  starts: list[Start]


class Claim(NamedTuple):
  """A run's folder that this process may write to.

  Attributes:
    standing: how far the run is.
    run: what `run.json` is to hold; on the first host.
  """

  standing: Standing
  run: Run | None


@contextlib.contextmanager
def claimed(
  workdir: Path,
  config: ml_collections.ConfigDict,
  dataset: tfds.core.DatasetBuilder,
) -> Iterator[Claim]:
  """Locks a run's folder and compares what it holds with this run.

  The first host decides for all. Nothing is written yet, see `record_start`.

  Args:
    workdir: new, empty or of an earlier start of the same run.
    config: of the run.
    dataset: what it is trained on.

  Yields:
    The claim.

  Raises:
    RunError: the folder holds another run; the message names the difference.
    errors.UserError: the folder cannot be written, is used by another process,
      or a file in it is damaged.
  """
  with contextlib.ExitStack() as stack:
    run = None

    def claim() -> Standing:
      nonlocal run
      places.claim_folder(workdir)
      stack.enter_context(places.locked(workdir))
      for name in 'checkpoints', 'pictures', 'weights':
        if os.path.lexists(workdir / name):
          places.claim_folder(workdir / name)
      run = _compared(workdir, config, dataset)
      return _standing(workdir, config)

    standing = Standing(devices.first_decides(claim))
    yield Claim(standing, run)


def record_start(
  workdir: Path, config: ml_collections.ConfigDict, run: Run, params: Any
) -> None:
  """Writes what the run is and that it starts or continues now.

  Args:
    workdir: of the run, claimed.
    config: of the run.
    run: of the claim.
    params: initial parameters; their shapes and sizes are written.
  """
  documents.write(workdir / 'config.json', json.loads(config.to_json()))
  starts = [*run.starts, _start()]
  documents.write(
    workdir / 'run.json', run.model_copy(update={'starts': starts}).model_dump()
  )
  overview = parameter_overview.get_parameter_overview(
    params, include_stats=False
  )
  path = workdir / 'parameters.txt'
  with places.write_errors(path):
    path.write_text(overview + '\n')


def _compared(
  workdir: Path,
  config: ml_collections.ConfigDict,
  dataset: tfds.core.DatasetBuilder,
) -> Run:
  """Returns what the folder says of the run, compared with this start."""
  wanted = json.loads(config.to_json())
  source = Source(
    name=prepared.full_name(dataset),
    content_sha256=prepared.content_digests(dataset),
  )
  found, run = read_config(workdir), read_run(workdir)
  if _has_results(workdir):
    for name, document in ('config.json', found), ('run.json', run):
      if document is None:
        raise RunError(
          f'{workdir / name} is missing, so nobody knows what the results there'
          ' came from; put it back, or choose another --workdir'
        )
  run = run or Run(dataset=source, starts=[])
  differences = _differences(found or wanted, wanted)
  if run.dataset != source:
    differences += [
      f'dataset {difference}'
      for difference in _differences(
        run.dataset.model_dump(), source.model_dump()
      )
    ]
  if differences:
    raise RunError(
      f'{workdir} holds a run with another config ({"; ".join(differences)});'
      ' choose another --workdir or delete that folder'
    )
  return run


def _has_results(workdir: Path) -> bool:
  checkpoints = workdir / 'checkpoints'
  return (workdir / 'metrics.json').exists() or (
    checkpoints.is_dir()
    and any(p.name.isdigit() for p in checkpoints.iterdir())
  )


def _standing(workdir: Path, config: ml_collections.ConfigDict) -> Standing:
  """Tells whether something is left to do for this config."""
  metrics = last_metrics(workdir)
  if metrics is None or metrics.num_steps != config.num_steps:
    return Standing.OPEN
  folder = workdir / 'weights'
  if not folder.exists():
    return Standing.WEIGHTS_MISSING
  problem = f'{folder} does not hold the weights that metrics.json speaks of'
  try:
    if weights.verify(folder) == metrics.weights_sha256:
      return Standing.FINISHED
  except weights.UnreadableError as error:
    raise RunError(str(error)) from None
  except weights.WeightsError as error:
    problem = str(error)
  raise RunError(
    f'{problem}. Delete {folder}, and the same command exports them again from'
    ' a checkpoint'
  )


def finish(
  workdir: Path,
  config: ml_collections.ConfigDict,
  step: int,
  scalars: Mapping[str, float],
  weights_sha256: str,
) -> None:
  """Writes that the run is finished; its weights are exported before.

  Args:
    workdir: of the run.
    config: of the run.
    step: that the weights are of.
    scalars: their evaluation.
    weights_sha256: of the weights file.
  """
  documents.write(
    workdir / 'metrics.json',
    {
      'num_steps': config.num_steps,
      'step': step,
      'validation': dict(scalars),
      'weights_sha256': weights_sha256,
    },
  )


def last_metrics(workdir: Path) -> Metrics | None:
  """Returns what `finish` wrote for this or a shorter run, None if nothing."""
  return _read(workdir / 'metrics.json', Metrics)


def read_metrics(workdir: Path) -> Metrics:
  """Returns what `finish` wrote.

  Raises:
    RunError: the run is not finished.
    errors.UserError: the file is damaged.
  """
  metrics = last_metrics(workdir)
  if metrics is None:
    raise RunError(f'{workdir} holds no finished run: no metrics.json there')
  return metrics


def read_config(workdir: Path) -> dict[str, Any] | None:
  """Returns the config of a run, None if there is none."""
  config = _read(workdir / 'config.json', Config)
  return None if config is None else config.root


def read_run(workdir: Path) -> Run | None:
  """Returns what a run was trained on, None if there is none."""
  return _read(workdir / 'run.json', Run)


def write_pictures(workdir: Path, images: Mapping[str, Any]) -> None:
  """Writes images, uint8 [N, H, W, 3], a PNG for each name, in a column."""
  for name, image in images.items():
    path = workdir / 'pictures' / f'{name}.png'
    with places.write_errors(path):
      path.parent.mkdir(exist_ok=True)
      imageio.imwrite(path, image.reshape(-1, *image.shape[2:]))


def _differences(
  found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> list[str]:
  """Says how two runs differ, except that one may be longer."""
  may_differ = set() if wanted.get('cosine_decay') else {'num_steps'}
  return [
    f'{key} is {found.get(key)!r} there and {wanted.get(key)!r} here'
    for key in sorted(found.keys() | wanted.keys())
    if key not in may_differ and found.get(key) != wanted.get(key)
  ]


def _start() -> Start:
  device = jax.devices()[0]
  return Start(
    time=datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    command=shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
    git_revision=_git_revision(),
    host=platform.node(),
    platform=platform.platform(),
    python=platform.python_version(),
    packages={name: importlib.metadata.version(name) for name in _PACKAGES},
    device=device.device_kind,
    devices=jax.device_count(),
    processes=jax.process_count(),
  )


def _git_revision() -> str | None:
  """Returns the commit of the code, and whether files differ from it."""
  if shutil.which('git') is None:
    return None
  done = subprocess.run(
    ['git', 'describe', '--always', '--dirty', '--abbrev=40'],
    cwd=Path(__file__).parent,
    capture_output=True,
    text=True,
    check=False,
  )
  return done.stdout.strip() or None


def _read(path: Path, schema: type[_Schema]) -> _Schema | None:
  """Reads a document of the folder, None if there is none."""
  try:
    return documents.read(path, schema)
  except FileNotFoundError:
    return None
  except errors.DocumentError as error:
    raise RunError(
      f'{error}; put back an intact copy, or delete {path.parent} to start'
      ' again'
    ) from None
