"""The folder of a run, the *workdir*, which is self-describing.

config.json            hyperparameters
run.json               sources, and every start: command, code, packages,
                       machine
parameters.txt         shapes and sizes of the parameters
checkpoints/           states to continue from
metrics.jsonl          metrics of training and validation, a line at a time:
                       {"step": 100, "train/loss": 41.2, ...}; finite ones
events.out.tfevents.*  the same for TensorBoard, with pictures
pictures/              pictures of the evaluation of what is exported
metrics.json           metrics of the exported weights, once the run is finished
weights/               exported weights
agent/                 of a controller: the exported weights of V, M and C
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import datetime
import functools
import importlib.metadata
import json
import os
from pathlib import Path
import platform
import shlex
import shutil
import subprocess
import sys
from typing import Any, NamedTuple

from absl import logging
from carracing_data import digests
from carracing_data import files
from carracing_data import json_documents
from carracing_data import metadata
from carracing_data import prepared_dataset
from clu import parameter_overview
import imageio.v3 as imageio
import jax
from models import weights
import numpy as np
from trainers import devices
from trainers import run_documents
from trainers.configs import base

_PACKAGES = (
  'flax',
  'grain',
  'jax',
  'jaxlib',
  'numpy',
  'optax',
  'orbax-checkpoint',
)


class Export(NamedTuple):
  """Arguments of `weights.save` other than the parameters.

  Attributes:
    name: name of the model: `vae`, `mdn_rnn` or `controller`.
    config: arguments of the model's constructor.
    training: provenance of the weights.
    start_states: function from the parameters to the start states; None: there
      are none.
    architecture: name of the model's class, see `vae.ARCHITECTURES`.
  """

  name: str
  config: Mapping[str, Any]
  training: Mapping[str, Any]
  start_states: Callable[[Any], bytes] | None = None
  architecture: str = 'paper'


def dataset_sources(
  datasets: Sequence[prepared_dataset.Dataset],
) -> dict[str, run_documents.Source]:
  """Returns prepared datasets as sources of a run, by role."""
  return {
    'dataset' if i == 1 else f'dataset_{i}': run_documents.Source(
      name=dataset.full_name, sha256=dataset.content_digests
    )
    for i, dataset in enumerate(datasets, 1)
  }


def weights_source(loaded: weights.Weights) -> run_documents.Source:
  """Returns exported weights as a source of a run."""
  return run_documents.Source(
    name=loaded.name, sha256={'weights': loaded.sha256}
  )


def initial_weights(
  folder: str,
  name: str,
  vae_sha256: str,
  config: Mapping[str, Any],
  architecture: str = 'paper',
) -> weights.Weights:
  """Loads the weights of an `mdn_rnn` or `controller`, to train on from them.

  Raises:
    run_documents.RunError: the weights were trained with another V, or their
      config is another one.
    weights.WeightsError: see `weights.load`.
  """
  initial = weights.load(folder, name)
  found = run_documents.differences(initial.config, config)
  if initial.architecture != architecture:
    found.append(f'its architecture is {initial.architecture}')
  if initial.training.get('vae_sha256') != vae_sha256:
    found.append('it was trained with another V')
  if found:
    raise run_documents.RunError(
      f'{folder} does not fit this run: {"; ".join(found)}; train with its'
      ' settings and its V, or without --initial_weights'
    )
  return initial


@contextlib.contextmanager
def opened(
  workdir: Path,
  config: base.RunConfig,
  sources: Mapping[str, run_documents.Source],
) -> Iterator['RunFolder']:
  """Locks a run's folder and compares its contents with this run.

  The folder is new, empty or from an earlier start of the same run. The first
  host decides for all. `RunFolder.begin` writes the first documents.

  Raises:
    run_documents.RunError: the folder holds a different run; the message names
      the difference.
    errors.UserError: the folder cannot be written, is used by another process,
      or a file in it is damaged.
  """
  with contextlib.ExitStack() as stack:
    run = run_documents.Run(sources=dict(sources), starts=[])

    def claim() -> int:
      nonlocal run
      if (workdir / metadata.INFO_FILE).exists():
        raise run_documents.RunError(
          f'{workdir} holds a dataset; choose another --workdir'
        )
      files.claim_folder(workdir)
      stack.enter_context(files.locked(workdir))
      for name in 'agent', 'checkpoints', 'pictures', 'weights':
        files.refuse_link(workdir / name)
        if (workdir / name).exists():
          files.claim_folder(workdir / name)
      files.remove_temporary(workdir)  # Left by a killed process.
      run = _compared(workdir, config, run)
      if not (finished := _is_finished(workdir, config)):
        for name in 'agent', 'weights':
          weights.check_replaceable(workdir / name)
        for path in workdir.glob('checkpoints/[0-9]*'):
          files.refuse_link(path)  # Orbax cannot delete links.
      elif found := run_documents.read_config(workdir):
        if found.root.get('num_steps') != config.num_steps:
          # Of an extension that was given up.
          json_documents.write(workdir / 'config.json', config.model_dump())
      return finished

    finished = bool(devices.first_decides(claim))
    yield RunFolder(workdir, config, run, finished)


@dataclasses.dataclass
class RunFolder:
  """A run's folder that this process has locked for writing.

  Attributes:
    workdir: the folder.
    config: hyperparameters of the run.
    run: its `run.json`.
    finished: whether nothing is left to do.
  """

  workdir: Path
  config: base.RunConfig
  run: run_documents.Run
  finished: bool

  @property
  def id(self) -> str:
    """Identifies the run; unchanged when it is continued."""
    first = self.run.starts[0]
    return json_documents.digest(first.model_dump())[: digests.SHORT]

  def begin(self, first_step: int, params: Any) -> None:
    """Checks that the run can continue after a step, and records this start.

    The first host decides for all. It writes the parameters' shapes and sizes.

    Raises:
      run_documents.RunError: the folder holds a longer run, weights from a
        later step than any checkpoint, or damaged metrics.
      errors.UserError: the folder cannot be written.
    """
    starts = [*self.run.starts, _start()]
    self.run = self.run.model_copy(update={'starts': starts})
    devices.first_decides(lambda: self._begin(first_step, params))

  def _begin(self, first_step: int, params: Any) -> int:
    workdir, num_steps = self.workdir, self.config.num_steps
    if first_step > num_steps:
      raise run_documents.RunError(
        f'{workdir} has been trained for {first_step} steps already, more than'
        f' {num_steps}; choose another --workdir or a larger num_steps'
      )
    lines = run_documents.read_lines(workdir)
    metrics = run_documents.read_metrics(workdir)
    if metrics is not None and first_step < metrics.step:
      raise run_documents.RunError(
        f'{workdir} holds weights of step {metrics.step}, but no checkpoint to'
        ' continue from; choose another --workdir, or delete that folder'
      )
    # What was logged after the step from which the run continues is forgotten.
    kept = (json.dumps(x) + '\n' for x in lines if x['step'] <= first_step)
    files.replace_text(workdir / run_documents.CURVES, ''.join(kept))
    json_documents.write(workdir / 'config.json', self.config.model_dump())
    json_documents.write(workdir / 'run.json', self.run.model_dump())
    overview = parameter_overview.get_parameter_overview(
      params, include_stats=False
    )
    files.replace_text(workdir / 'parameters.txt', overview + '\n')
    return 0

  def write_pictures(self, images: Mapping[str, np.ndarray]) -> None:
    """Writes pictures, uint8 [N, H, W, 3], by name; on the first host."""
    if jax.process_index() > 0:
      return
    for name, image in images.items():
      path = self.workdir / 'pictures' / f'{name}.png'
      files.claim_folder(path.parent)
      rows = image.reshape(-1, *image.shape[2:])
      content = imageio.imwrite('<bytes>', rows, extension='.png')
      files.replace(path, functools.partial(Path.write_bytes, data=content))

  def finish(
    self, export: Export, step: int, params: Any, scalars: Mapping[str, float]
  ) -> None:
    """Exports the weights, then marks the run as finished; on the first host.

    The scalars are the evaluation of the parameters, which are of this step.

    Raises:
      errors.UserError: the folder cannot be written.
    """
    logging.info('Exporting the parameters of step %d.', step)
    if jax.process_index() > 0:
      return
    # A checkpoint does not keep the order.
    validation = dict(sorted(scalars.items()))
    start = self.run.starts[-1]  # The last one: a run can be extended.
    training = {
      **export.training,
      'step': step,
      'validation': validation,
      'sources': {
        role: source.model_dump() for role, source in self.run.sources.items()
      },
      'command': start.command,
      'git_revision': start.git_revision,
    }
    sha256 = weights.save(
      self.workdir / 'weights',
      export.name,
      export.config,
      params,
      training,
      None if export.start_states is None else export.start_states(params),
      export.architecture,
    )
    metrics = run_documents.Metrics(
      num_steps=self.config.num_steps,
      step=step,
      validation=validation,
      weights_sha256=sha256,
    )
    json_documents.write(self.workdir / 'metrics.json', metrics.model_dump())


def _compared(
  workdir: Path, config: base.RunConfig, run: run_documents.Run
) -> run_documents.Run:
  """Compares the folder with this start; returns its `run.json`, if any."""
  documents = (
    run_documents.read_config(workdir),
    run_documents.read_run(workdir),
  )
  if _has_results(workdir):
    for name, document in zip(('config.json', 'run.json'), documents):
      if document is None:
        raise run_documents.RunError(
          f'{workdir / name} is missing, so the origin of the results is'
          ' unknown; restore it, or choose another --workdir'
        )
  found = config.model_dump() if documents[0] is None else documents[0].root
  there = run if documents[1] is None else documents[1]
  if texts := compare(config, run, found, there):
    raise run_documents.RunError(
      f'{workdir} holds a run with a different config ({"; ".join(texts)});'
      ' choose another --workdir or delete that folder'
    )
  return there


def compare(
  config: base.RunConfig,
  run: run_documents.Run,
  found: Mapping[str, Any],
  there: run_documents.Run,
) -> list[str]:
  """Describes where another run, its config and sources, differs from one."""
  wanted = config.model_dump()
  found = run_documents.as_today(found, run.model)
  may_differ = () if wanted.get('cosine_decay') else ('num_steps',)
  differences = run_documents.differences(found, wanted, may_differ)
  sources = [x.model_dump()['sources'] for x in (there, run)]
  for role in run_documents.other_sources(*sources):
    contents = (x.get(role, {}) for x in sources)
    texts = run_documents.differences(*contents)
    differences += [f'{role} {x}' for x in texts]
  return differences


def _has_results(workdir: Path) -> bool:
  checkpoints = workdir / 'checkpoints'
  return (workdir / 'metrics.json').exists() or (
    checkpoints.is_dir()
    and any(p.name.isdigit() for p in checkpoints.iterdir())
  )


def _is_finished(workdir: Path, config: base.RunConfig) -> bool:
  """Returns whether the run has exported its weights under this config."""
  metrics = run_documents.read_metrics(workdir)
  folder = workdir / 'weights'
  if metrics is None or metrics.num_steps != config.num_steps:
    return False
  if not folder.exists():
    logging.info('%s is missing; it is exported again.', folder)
    return False
  try:
    run_documents.check_weights(workdir, metrics)
    return True
  except weights.WeightsError as error:
    problem = str(error).partition(';')[0]  # Without its remedy.
  raise run_documents.RunError(
    f'{problem}. Delete {folder} and rerun the same command to export them'
    ' again from a checkpoint'
  )


def _start() -> run_documents.Start:
  """Describes this process, its machine and its code."""
  command = shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]])
  return run_documents.Start(
    time=datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    # JSON holds no other bytes.
    command=command.encode('utf-8', 'surrogateescape').decode(errors='replace'),
    git_revision=_git_revision(),
    host=platform.node(),
    platform=platform.platform(),
    python=platform.python_version(),
    packages={name: importlib.metadata.version(name) for name in _PACKAGES},
    device=jax.devices()[0].device_kind,
    devices=jax.device_count(),
    processes=jax.process_count(),
  )


def _git_revision() -> str | None:
  """Returns the commit of the code, with `-dirty` if files differ from it."""
  if shutil.which('git') is None:
    return None
  project = Path(__file__).resolve().parents[1]
  # Neither that of a folder above nor that of a hook that runs this.
  environment = {
    k: v for k, v in os.environ.items() if not k.startswith('GIT_')
  }
  environment['GIT_CEILING_DIRECTORIES'] = str(project.parent)
  # Whose code runs here is trusted, even if another user owns it.
  trusted = f'safe.directory={project}'
  done = subprocess.run(
    ['git', '-c', trusted, 'describe', '--always', '--dirty', '--abbrev=40'],
    cwd=project,
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  return done.stdout.strip() or None
