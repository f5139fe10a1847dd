"""Trains M: `carracing_latents` → weights of an MDN-RNN.

python -m trainers.train_mdn_rnn --workdir=runs/mdn_rnn
"""

from collections.abc import Mapping, Sequence
import functools
import math
from pathlib import Path
from typing import Any

from carracing_data import prepared
from carracing_latents import loader
from clu import metrics
from flax import struct
from flax.training import train_state
import jax
import jax.numpy as jnp
import ml_collections
from models import mdn_rnn
from models import weights
import numpy as np
import optax
from trainers import commands
from trainers import loop


@struct.dataclass
class Metrics(metrics.Collection):
  """Means over transitions, in nats per latent dimension."""

  nll: metrics.Average.from_output('nll')  # pyright: ignore


def train_and_export(
  config: ml_collections.ConfigDict, workdir: Path, data_dir: str | None
) -> None:
  """Trains an MDN-RNN and exports its weights to `workdir/weights`.

  Args:
    config: see `trainers/configs/mdn_rnn.py`.
    workdir: the folder of the run.
    data_dir: where datasets lie, see `prepared.find`.

  Raises:
    errors.DatasetError: the latents are missing.
    loop.RunError: the folder holds a run with another config.
  """
  latents = prepared.find(config.dataset, data_dir)
  windows = functools.partial(
    loader.windows,
    latents.data_dir,
    batch_size=config.batch_size,
    window_steps=config.window_steps,
    seed=config.seed,
  )
  validation_episodes = list(
    loader.episodes(latents.data_dir, split='validation')
  )
  references = _references(validation_episodes)
  validation = list(windows(split='validation', num_epochs=1))
  model_config = {
    'latent_size': validation[0].targets.shape[-1],
    'hidden_size': config.hidden_size,
    'num_mixtures': config.num_mixtures,
    'per_dimension': config.per_dimension,
  }
  model = mdn_rnn.MDNRNN(**model_config)

  @jax.jit
  def init() -> train_state.TrainState:
    inputs = jnp.zeros_like(validation[0].inputs[:1])
    variables = model.init(
      jax.random.key(config.seed), inputs, model.initial_carry(1)
    )
    return train_state.TrainState.create(
      apply_fn=model.apply,
      params=variables['params'],
      tx=optax.chain(
        optax.clip_by_global_norm(config.max_gradient_norm),
        optax.adam(config.learning_rate),
      ),
    )

  def nll_of(params, batch: loader.Windows) -> jax.Array:
    carry = model.initial_carry(len(batch.inputs))
    mixture, _ = model.apply({'params': params}, batch.inputs, carry)
    return mdn_rnn.nll(mixture, batch.targets)

  def metrics_of(nll: jax.Array, batch: loader.Windows) -> Metrics:
    return Metrics.single_from_model_output(
      nll=nll.ravel(), mask=batch.mask.ravel()
    )

  @functools.partial(jax.jit, donate_argnums=0)
  def train_step(state, batch):
    def mean_nll(params):
      nll = nll_of(params, batch)
      return jnp.mean(nll, where=batch.mask), nll

    gradients, nll = jax.grad(mean_nll, has_aux=True)(state.params)
    return state.apply_gradients(grads=gradients), metrics_of(nll, batch)

  @jax.jit
  def eval_step(params, batch):
    return metrics_of(nll_of(params, batch), batch)

  def evaluate(params) -> loop.Evaluation:
    collected = functools.reduce(
      Metrics.merge, (eval_step(params, batch) for batch in validation)
    )
    return loop.Evaluation({**collected.compute(), **references}, images={})

  state, scalars = loop.train(
    config, workdir, init(), windows(split='train'), train_step, evaluate
  )
  weights.save(
    workdir / 'weights',
    'mdn_rnn',
    model_config,
    state.params,
    {
      'dataset': prepared.full_name(latents),
      'vae_sha256': latents.info.metadata['config']['vae_sha256'],
      'step': int(state.step),
      'validation': scalars,
    },
  )


def _references(episodes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Returns what an NLL on these episodes is to be compared with.

  The targets are samples of the posterior of the next frame, so even a model
  that knew that posterior could not do better than its entropy, the *floor*.
  The *baseline* predicts that z does not change, with the constant standard
  deviation, one for each dimension, that is best for these very episodes.

  Args:
    episodes: records of the latents dataset.

  Returns:
    `nll_floor` and `nll_no_change`, nats per latent dimension.
  """
  target_logvar = np.concatenate([e['logvar'][1:] for e in episodes])
  # The expectation over the samples of both steps.
  squared_change = np.concatenate(
    [
      np.diff(e['mean'], axis=0) ** 2
      + np.exp(e['logvar'][1:])
      + np.exp(e['logvar'][:-1])
      for e in episodes
    ]
  )
  entropy_of_unit_gaussian = 0.5 * math.log(2 * math.pi * math.e)
  log_variance = np.log(squared_change.mean(axis=0))
  return {
    'nll_floor': entropy_of_unit_gaussian + 0.5 * float(target_logvar.mean()),
    'nll_no_change': (
      entropy_of_unit_gaussian + 0.5 * float(log_variance.mean())
    ),
  }


if __name__ == '__main__':
  commands.train(train_and_export, 'trainers/configs/mdn_rnn.py')
