"""The learner of V and M: batches of a dataset → gradient steps."""

from collections.abc import Callable, Mapping
from pathlib import Path
import time
from typing import Any

from carracing_data import files
from clu import metrics
import grain
import jax
import jax.numpy as jnp
import numpy as np
from trainers import devices
from trainers import loop
from trainers import optimizer
from trainers import run_documents
from trainers import training_log
from trainers.configs import base

# Function (state, batch) → (state, metrics). It derives its random keys from
# `state.step`. Its metrics include `loss`, and one of them is not finite if the
# loss or a gradient is not.
TrainStep = Callable[
  [optimizer.TrainState, Any], tuple[optimizer.TrainState, metrics.Collection]
]


class SupervisedLearner(loop.Learner):
  """Trains a model on batches, each sharded across all devices of all hosts."""

  def __init__(
    self,
    config: base.SupervisedConfig,
    state: optimizer.TrainState,
    dataset: grain.IterDataset,
    train_step: TrainStep,
    metrics_class: type[metrics.Collection],
    evaluate: Callable[[Any], training_log.Evaluation],
    workdir: Path,
  ):
    """Places the state on all devices and starts to read.

    The dataset, of this host's part of each batch, is endless. The step is
    compiled here. A batch that is not finite is kept in the workdir.
    """
    self.examples_per_step = config.batch_size
    self._state = devices.replicate(state)
    self._no_metrics = metrics_class.empty()
    self._collected = devices.replicate(self._no_metrics)
    self._iterator = iter(devices.send_ahead(dataset))
    self._advance = _compiled(train_step)
    self._evaluate = evaluate
    self._workdir = workdir
    self._unchecked: tuple[int, Any, jax.Array] | None = None

  @property
  def saved(self) -> Mapping[str, Any]:
    state = {'train_state': self._state, 'collected': self._collected}
    return {'state': state, 'data': self._iterator}

  @property
  def params(self) -> Any:
    # A copy: the next step donates the parameters.
    return jax.tree.map(jnp.copy, self._state.params)

  def restore(self, saved: Mapping[str, Any], step: int) -> None:
    del step
    self._state = saved['state']['train_state']
    self._collected = saved['state']['collected']

  def take_step(self, step: int) -> float:
    started = time.perf_counter()
    batch = next(self._iterator)
    waited = time.perf_counter() - started
    self._state, self._collected, finite = self._advance(
      self._state, self._collected, batch
    )
    # Waits for the previous step while the device computes this one.
    self.check()
    self._unchecked = step, batch, finite
    return waited

  def check(self) -> None:
    """Saves the batch and raises RunError if the last step was not finite."""
    if self._unchecked is None or bool(self._unchecked[2]):
      return
    step, batch, _ = self._unchecked
    name = f'not_finite_step_{step}_process_{jax.process_index()}.npz'
    path = self._workdir / name
    leaves = {  # This host's part.
      jax.tree_util.keystr(key).strip('.') or 'batch': np.concatenate(
        [shard.data for shard in leaf.addressable_shards]
      )
      for key, leaf in jax.tree_util.tree_leaves_with_path(batch)
    }
    with files.write_errors(path):
      np.savez_compressed(path, **leaves)
    raise run_documents.RunError(
      f'the loss or a gradient is NaN or infinite in step {step}; its batch was'
      f' saved to {path}. Earlier checkpoints are kept; try a new --workdir'
      ' with a lower learning_rate or with max_gradient_norm'
    )

  def collect(self) -> tuple[metrics.Collection, Mapping[str, float]]:
    collected = self._collected
    self._collected = devices.replicate(self._no_metrics)
    return collected, {}

  def evaluate(self) -> training_log.Evaluation:
    return self._evaluate(self._state.params)

  def close(self) -> None:
    self._iterator.close()


def _compiled(train_step: TrainStep) -> Callable:
  """Compiles a step that also collects metrics and checks if all are finite."""

  def advance(state, collected, batch):
    state, of_step = train_step(state, batch)
    finite = [
      jnp.isfinite(x).all()
      for x in jax.tree.leaves(of_step)
      if jnp.issubdtype(x.dtype, jnp.floating)
    ]
    return state, collected.merge(of_step), jnp.stack(finite).all()

  return jax.jit(advance, donate_argnums=0, out_shardings=devices.replicated())
