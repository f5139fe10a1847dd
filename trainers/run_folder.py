"""The folder of a run, the *workdir*, which is self-describing.

config.json            hyperparameters
run.json               sources, and every start: command, code, packages,
                       machine
parameters.txt         shapes and sizes of the parameters
checkpoints/           states to continue from
events.out.tfevents.*  TensorBoard logs
pictures/              pictures of the best evaluation
metrics.json           metrics of the exported weights, once the run is finished
weights/               exported weights
agent/                 of a controller: the exported weights of V, M and C
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import enum
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging
from carracing_data import files
from carracing_data import json_documents
from carracing_data import prepared_dataset
from clu import parameter_overview
import imageio.v3 as imageio
import jax
import ml_collections
from models import weights
from trainers import devices
from trainers import run_documents
from trainers import run_start
from trainers import training_log

_CHECKPOINTS = 4  # Two kept, one being written, and one for all other files.


class Standing(enum.IntEnum):
  """Status of a run."""

  OPEN = 0
  FINISHED = 1
  WEIGHTS_MISSING = 2  # Finished, but its weights were deleted.


@dataclasses.dataclass(frozen=True)
class Claim:
  """A run's folder that this process has locked for writing.

  Attributes:
    workdir: folder of the run.
    config: config of the run.
    standing: status of the run.
    run: content of `run.json`; only on the first host.
  """

  workdir: Path
  config: ml_collections.ConfigDict
  standing: Standing
  run: run_documents.Run | None


class Export(NamedTuple):
  """Arguments of `weights.save` other than the parameters.

  Attributes:
    name: name of the model: `vae`, `mdn_rnn` or `controller`.
    config: arguments of the model's constructor.
    training: provenance of the weights.
    start_states: function from the parameters to the start states; None: there
      are none.
  """

  name: str
  config: Mapping[str, Any]
  training: Mapping[str, Any]
  start_states: Callable[[Any], bytes] | None = None


def dataset_source(
  dataset: prepared_dataset.Dataset,
) -> run_documents.Source:
  """Returns a prepared dataset as a source of a run."""
  return run_documents.Source(
    name=dataset.full_name,
    sha256=dataset.content_digests,
  )


@contextlib.contextmanager
def claimed(
  workdir: Path,
  config: ml_collections.ConfigDict,
  sources: Mapping[str, run_documents.Source],
) -> Iterator[Claim]:
  """Locks a run's folder and compares its contents with this run.

  The first host decides for all. `begin` writes the first documents.

  Args:
    workdir: folder that is new, empty or from an earlier start of the same run.
    config: config of the run, with `num_steps`.
    sources: datasets and weights that the run uses, by role.

  Yields:
    The claim.

  Raises:
    run_documents.RunError: the folder holds a different run; the message names
      the difference.
    errors.UserError: the folder cannot be written, is used by another process,
      or a file in it is damaged.
  """
  with contextlib.ExitStack() as stack:
    run = None

    def claim() -> Standing:
      nonlocal run
      files.claim_folder(workdir)
      stack.enter_context(files.locked(workdir))
      for name in 'agent', 'checkpoints', 'pictures', 'weights':
        if os.path.lexists(workdir / name):
          files.claim_folder(workdir / name)
      for path in workdir.glob('.*.tmp'):  # Left by a killed process.
        path.unlink()
      run = _compared(workdir, config, sources)
      return _standing(workdir, config)

    standing = Standing(devices.first_decides(claim))
    yield Claim(workdir, config, standing, run)


def begin(claim: Claim, first_step: int, state: Any, params: Any) -> None:
  """Checks that the run can continue from a step, and records this start.

  The first host decides for all.

  Args:
    claim: claim of the folder.
    first_step: number of steps taken by earlier starts.
    state: tree of arrays that every checkpoint will hold.
    params: parameters, whose shapes and sizes are written.

  Raises:
    run_documents.RunError: the folder holds a longer run, or weights from a
      later step than any checkpoint.
    errors.PlaceError: the disk has too little free space.
  """
  devices.first_decides(lambda: _begin(claim, first_step, state, params))


def _begin(claim: Claim, first_step: int, state: Any, params: Any) -> int:
  workdir, num_steps = claim.workdir, claim.config.num_steps
  if first_step > num_steps:
    raise run_documents.RunError(
      f'{workdir} has been trained for {first_step} steps already, more than'
      f' {num_steps}; choose another --workdir or a larger num_steps'
    )
  metrics = run_documents.read_metrics(workdir)
  if metrics is not None and first_step < metrics.step:
    raise run_documents.RunError(
      f'{workdir} holds weights of step {metrics.step}, but no checkpoint to'
      ' continue from; choose another --workdir, or delete that folder'
    )
  num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
  files.check_space(workdir, _CHECKPOINTS * num_bytes)
  assert claim.run is not None
  run = claim.run.model_copy(
    update={'starts': [*claim.run.starts, run_start.describe()]}
  )
  json_documents.write(
    workdir / 'config.json', json.loads(claim.config.to_json())
  )
  json_documents.write(workdir / 'run.json', run.model_dump())
  overview = parameter_overview.get_parameter_overview(
    params, include_stats=False
  )
  path = workdir / 'parameters.txt'
  with files.write_errors(path):
    path.write_text(overview + '\n')
  return 0


def finish(
  claim: Claim,
  export: Export,
  step: int,
  params: Any,
  evaluation: training_log.Evaluation,
) -> None:
  """Exports the weights, then marks the run as finished; on the first host.

  Args:
    claim: claim of the folder.
    export: name, config and provenance of the weights.
    step: step of the parameters.
    params: parameters to export.
    evaluation: evaluation of the parameters.

  Raises:
    errors.UserError: the folder cannot be written.
  """
  logging.info('Exporting the parameters of step %d.', step)
  if jax.process_index() > 0:
    return
  scalars = dict(evaluation.scalars)
  sha256 = _export(claim, export, step, params, scalars)
  for name, image in evaluation.images.items():
    path = claim.workdir / 'pictures' / f'{name}.png'
    with files.write_errors(path):
      path.parent.mkdir(exist_ok=True)
      imageio.imwrite(path, image.reshape(-1, *image.shape[2:]))
  metrics = run_documents.Metrics(
    num_steps=claim.config.num_steps,
    step=step,
    validation=scalars,
    weights_sha256=sha256,
  )
  json_documents.write(claim.workdir / 'metrics.json', metrics.model_dump())


def export_again(claim: Claim, export: Export, params: Any) -> None:
  """Exports the weights of a finished run from a checkpoint.

  Args:
    claim: claim of the folder.
    export: name, config and provenance of the weights.
    params: best parameters of the newest checkpoint.

  Raises:
    run_documents.RunError: the parameters are not those of the missing weights.
  """
  if jax.process_index() > 0:
    return
  workdir = claim.workdir
  metrics = run_documents.finished_metrics(workdir)
  if weights.digest(params) != metrics.weights_sha256:
    raise run_documents.RunError(
      f'{workdir} is finished, but {workdir / "weights"} is missing, and no'
      f' checkpoint holds the parameters of step {metrics.step};'
      f' delete {workdir} to train again'
    )
  _export(claim, export, metrics.step, params, metrics.validation)
  logging.info('%s is finished; its weights were exported again.', workdir)


def _export(
  claim: Claim,
  export: Export,
  step: int,
  params: Any,
  scalars: Mapping[str, float],
) -> str:
  run = run_documents.read_run(claim.workdir)
  assert run is not None
  training = {
    **export.training,
    'step': step,
    'validation': scalars,
    'sources': {
      role: source.model_dump() for role, source in run.sources.items()
    },
    # The last start, because a run can be extended.
    'command': run.starts[-1].command,
    'git_revision': run.starts[-1].git_revision,
  }
  return weights.save(
    claim.workdir / 'weights',
    export.name,
    export.config,
    params,
    training,
    None if export.start_states is None else export.start_states(params),
  )


def _compared(
  workdir: Path,
  config: ml_collections.ConfigDict,
  sources: Mapping[str, run_documents.Source],
) -> run_documents.Run:
  """Compares the folder with this start; returns its `run.json`."""
  wanted = json.loads(config.to_json())
  found = run_documents.read_config(workdir)
  run = run_documents.read_run(workdir)
  if _has_results(workdir):
    for name, document in ('config.json', found), ('run.json', run):
      if document is None:
        raise run_documents.RunError(
          f'{workdir / name} is missing, so the origin of the results is'
          ' unknown; restore it, or choose another --workdir'
        )
  run = run or run_documents.Run(sources=dict(sources), starts=[])
  may_differ = set() if wanted.get('cosine_decay') else {'num_steps'}
  differences = [
    difference
    for name, difference in _differences(
      found.root if found else wanted, wanted
    )
    if name not in may_differ
  ]
  differences += [
    f'{role} {difference}'
    for role in sorted({*run.sources, *sources})
    # The same content may have another name, for instance a later version.
    if not _same_content(run.sources.get(role), sources.get(role))
    for _, difference in _differences(
      *(
        x[role].model_dump() if role in x else {}
        for x in (run.sources, sources)
      )
    )
  ]
  if differences:
    raise run_documents.RunError(
      f'{workdir} holds a run with a different config'
      f' ({"; ".join(differences)}); choose another --workdir or'
      ' delete that folder'
    )
  return run


def _same_content(
  one: run_documents.Source | None, other: run_documents.Source | None
) -> bool:
  return bool(one and other and one.sha256 == other.sha256)


def _differences(
  found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
  """Yields each key with differing values, and a description."""
  for key in sorted({*found, *wanted}):
    if found.get(key) != wanted.get(key):
      yield (
        key,
        f'{key} is {_shown(found, key)} there and {_shown(wanted, key)} here',
      )


def _shown(config: Mapping[str, Any], key: str) -> str:
  return repr(config[key]) if key in config else 'absent'


def _has_results(workdir: Path) -> bool:
  checkpoints = workdir / 'checkpoints'
  return (workdir / 'metrics.json').exists() or (
    checkpoints.is_dir()
    and any(p.name.isdigit() for p in checkpoints.iterdir())
  )


def _standing(workdir: Path, config: ml_collections.ConfigDict) -> Standing:
  """Returns the status of the run under this config."""
  metrics = run_documents.read_metrics(workdir)
  if metrics is None or metrics.num_steps != config.num_steps:
    return Standing.OPEN
  folder = workdir / 'weights'
  if not folder.exists():
    return Standing.WEIGHTS_MISSING
  problem = f'{folder} does not hold the weights that metrics.json describes'
  try:
    if weights.verify(folder) == metrics.weights_sha256:
      return Standing.FINISHED
  except weights.WeightsError as error:
    problem = str(error).partition(';')[0]  # Without its remedy.
  raise run_documents.RunError(
    f'{problem}. Delete {folder} and rerun the same command to export them'
    ' again from a checkpoint'
  )
