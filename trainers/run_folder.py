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

from collections.abc import Mapping
import datetime
import importlib.metadata
import json
import os
from pathlib import Path
import platform
import shlex
import shutil
import subprocess
import sys
from typing import Any

from clu import parameter_overview
import imageio.v3 as imageio
import jax
import ml_collections
import tensorflow_datasets as tfds

_PACKAGES = (
  'flax',
  'grain',
  'jax',
  'jaxlib',
  'numpy',
  'optax',
  'orbax-checkpoint',
)


class RunError(ValueError):
  """A run cannot start or continue; the message says how to mend it."""


def claim(
  workdir: Path,
  config: ml_collections.ConfigDict,
  dataset: tfds.core.DatasetBuilder,
  params: Any,
) -> None:
  """Writes what a run is into its folder, or compares it with what is there.

  Args:
    workdir: new, empty or of an earlier start of the same run.
    config: of the run.
    dataset: what it is trained on.
    params: initial parameters.

  Raises:
    RunError: the folder holds another run; the message names the difference.
  """
  splits = dataset.info.metadata['splits']
  data = {
    'name': dataset.info.full_name,
    'content_sha256': {
      split: metadata['content_sha256'] for split, metadata in splits.items()
    },
  }
  overview = parameter_overview.get_parameter_overview(
    params, include_stats=False
  )
  wanted = json.loads(config.to_json())
  run = _read(workdir / 'run.json') or {'dataset': data, 'starts': []}
  differences = _differences(_read(workdir / 'config.json') or wanted, wanted)
  if run['dataset'] != data:
    differences += _differences(run['dataset'], data)
  if differences:
    raise RunError(
      f'{workdir} holds a run with another config ({"; ".join(differences)});'
      ' choose another --workdir or delete that folder'
    )
  if jax.process_index() != 0:
    return
  run['starts'].append(_start())
  workdir.mkdir(parents=True, exist_ok=True)
  _write(workdir / 'config.json', wanted)
  _write(workdir / 'run.json', run)
  (workdir / 'parameters.txt').write_text(overview + '\n')


def finished(workdir: Path, config: ml_collections.ConfigDict) -> bool:
  """Tells whether nothing is left to do for this config."""
  metrics = _read(workdir / 'metrics.json')
  return metrics is not None and metrics['num_steps'] == config.num_steps


def finish(
  workdir: Path,
  config: ml_collections.ConfigDict,
  step: int,
  scalars: Mapping[str, float],
) -> None:
  """Writes the metrics of the exported weights, and that the run is finished.

  Args:
    workdir: of the run.
    config: of the run.
    step: that the weights are of.
    scalars: their evaluation.
  """
  _write(
    workdir / 'metrics.json',
    {'num_steps': config.num_steps, 'step': step, 'validation': scalars},
  )


def read_metrics(workdir: Path) -> dict[str, Any]:
  """Returns what `finish` wrote.

  Raises:
    RunError: the run is not finished.
  """
  metrics = _read(workdir / 'metrics.json')
  if metrics is None:
    raise RunError(f'{workdir} holds no finished run: no metrics.json there')
  return metrics


def write_pictures(workdir: Path, images: Mapping[str, Any]) -> None:
  """Writes images, uint8 [N, H, W, 3], a PNG for each name, in a column."""
  for name, image in images.items():
    path = workdir / 'pictures' / f'{name}.png'
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


def _start() -> dict[str, Any]:
  """Returns what a start of a run depends on."""
  device = jax.devices()[0]
  return {
    'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'command': shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
    'git_revision': _git_revision(),
    'host': platform.node(),
    'platform': platform.platform(),
    'python': platform.python_version(),
    'packages': {name: importlib.metadata.version(name) for name in _PACKAGES},
    'device': device.device_kind,
    'devices': jax.device_count(),
    'processes': jax.process_count(),
  }


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


def _read(path: Path) -> Any:
  return json.loads(path.read_text()) if path.exists() else None


def _write(path: Path, content: Any) -> None:
  """Writes JSON, all of it or nothing."""
  partial = path.with_suffix('.partial')
  partial.write_text(json.dumps(content, indent=2) + '\n')
  os.replace(partial, path)
