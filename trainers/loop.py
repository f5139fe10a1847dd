"""The training loop of all models: data and a step function → a trained state.

A run lives in its folder, the *workdir*: the config, checkpoints, TensorBoard
logs, and when it is finished the metrics and the exported weights. The same
command continues an interrupted run.
"""

from collections.abc import Callable, Mapping
import contextlib
import json
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from absl import logging
from clu import metric_writers
from clu import metrics as clu_metrics
from clu import parameter_overview
from clu import periodic_actions
from flax.training import train_state
import grain
import jax
import ml_collections
import numpy as np
from trainers import checkpoints

Batch = TypeVar('Batch')

FIRST_STEP = 'Took the first step.'  # What tells that compilation is over.


class RunError(ValueError):
  """A run cannot start or continue; the message says how to mend it."""


class Evaluation(NamedTuple):
  """What an evaluation found.

  Attributes:
    scalars: by name.
    images: uint8 [N, H, W, 3], by name.
  """

  scalars: Mapping[str, float]
  images: Mapping[str, np.ndarray]


def train(
  config: ml_collections.ConfigDict,
  workdir: Path,
  state: train_state.TrainState,
  dataset: grain.IterDataset[Batch],
  train_step: Callable[
    [train_state.TrainState, Batch],
    tuple[train_state.TrainState, clu_metrics.Collection],
  ],
  evaluate: Callable[[Any], Evaluation],
) -> tuple[train_state.TrainState, Mapping[str, float]]:
  """Trains until `config.num_steps`, from the newest checkpoint if any.

  Args:
    config: with `num_steps`, `log_every_steps`, `eval_every_steps` and
      `checkpoint_every_steps`.
    workdir: the folder of the run.
    state: the initial state.
    dataset: endless batches.
    train_step: is compiled here; its random draws derive from `state.step`.
    evaluate: takes the parameters.

  Returns:
    The final state and the scalars of its evaluation, which lie in
    `metrics.json` too.

  Raises:
    RunError: the folder holds a run with another config or a longer one.
  """
  _claim(workdir, config)
  compiled_step = jax.jit(train_step, donate_argnums=0)
  merge = jax.jit(lambda collected, metrics: collected.merge(metrics))
  device = jax.devices()[0]
  state = jax.device_put(state, device)
  # Batches travel to the device while it works on those before.
  dataset = grain.experimental.device_put(
    dataset, device, cpu_buffer_size=1, device_buffer_size=1
  )
  parameter_overview.log_parameter_overview(state.params)
  iterator = iter(dataset)
  saved = checkpoints.Checkpoints(workdir / 'checkpoints')
  writer = metric_writers.create_default_writer(str(workdir))
  with (
    contextlib.closing(iterator),
    contextlib.closing(saved),
    metric_writers.ensure_flushes(writer),
  ):
    state, first_step = saved.restore(state, iterator)
    if first_step > config.num_steps:
      raise RunError(
        f'{workdir} has been trained for {first_step} steps already, more than'
        f' {config.num_steps}; choose another --workdir or more num_steps'
      )
    if first_step:
      logging.info('Continuing from step %d.', first_step)
    progress = periodic_actions.ReportProgress(
      num_train_steps=config.num_steps, writer=writer, every_secs=10
    )
    collected = None
    for step in range(first_step + 1, config.num_steps + 1):
      state, metrics = compiled_step(state, next(iterator))
      if collected is None:
        collected = metrics
      elif (step - 1) % config.log_every_steps == 0:
        # A step late: the device is busy with this one while we wait.
        _write_train(writer, step - 1, collected)
        collected = metrics
      else:
        collected = merge(collected, metrics)
      if step == first_step + 1:
        jax.block_until_ready(metrics)
        logging.info(FIRST_STEP)
      progress(step)
      last = step == config.num_steps
      if step % config.eval_every_steps == 0 and not last:
        with progress.timed('evaluation'):
          _write(writer, step, evaluate(state.params))
      if last or step % config.checkpoint_every_steps == 0:
        saved.save(step, state, iterator)
    if collected is not None:
      _write_train(writer, config.num_steps, collected)
    evaluation = evaluate(state.params)
    _write(writer, config.num_steps, evaluation)
  scalars = _floats(evaluation.scalars)
  (workdir / 'metrics.json').write_text(json.dumps(scalars, indent=2) + '\n')
  return state, scalars


def _claim(workdir: Path, config: ml_collections.ConfigDict) -> None:
  """Writes the config into a new workdir, compares it with an old one's."""
  path = workdir / 'config.json'
  wanted = json.loads(config.to_json())
  if path.exists():
    found = json.loads(path.read_text())
    # A run may be prolonged; anything else would make it another run.
    differences = [
      f'{key} is {found.get(key)!r} there and {wanted.get(key)!r} here'
      for key in sorted(found.keys() | wanted.keys())
      if key != 'num_steps' and found.get(key) != wanted.get(key)
    ]
    if differences:
      raise RunError(
        f'{workdir} holds a run with another config ({"; ".join(differences)}'
        '); choose another --workdir or delete that folder'
      )
  workdir.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(wanted, indent=2) + '\n')


def _write_train(
  writer: metric_writers.MetricWriter,
  step: int,
  collected: clu_metrics.Collection,
) -> None:
  scalars = _floats(collected.compute())
  writer.write_scalars(step, _prefixed('train', scalars))


def _write(
  writer: metric_writers.MetricWriter, step: int, evaluation: Evaluation
) -> None:
  scalars = _floats(evaluation.scalars)
  writer.write_scalars(step, _prefixed('validation', scalars))
  if evaluation.images:
    writer.write_images(step, _prefixed('validation', evaluation.images))


def _floats(scalars: Mapping[str, Any]) -> dict[str, float]:
  return {name: float(value) for name, value in scalars.items()}


def _prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
  return {f'{prefix}/{name}': value for name, value in values.items()}
