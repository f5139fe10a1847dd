"""Trains V: `carracing_rollouts` → weights of a VAE.

python -m trainers.train_vae --workdir=runs/vae
"""

from collections.abc import Callable, Sequence
import functools
import itertools
from pathlib import Path
from typing import Any

from carracing_data import prepared
from carracing_rollouts import loader
from clu import metrics
from flax import struct
from flax.training import train_state
import jax
import jax.numpy as jnp
import ml_collections
from models import vae
from models import weights
import numpy as np
import optax
from trainers import commands
from trainers import loop

_IMAGES = 8  # Reconstructions to show.


@struct.dataclass
class Metrics(metrics.Collection):
  """Means over frames; see `vae.Loss` for the units."""

  loss: metrics.Average.from_output('total')  # pyright: ignore
  reconstruction: metrics.Average.from_output('reconstruction')  # pyright: ignore
  kl: metrics.Average.from_output('kl')  # pyright: ignore


def train_and_export(
  config: ml_collections.ConfigDict, workdir: Path, data_dir: str | None
) -> None:
  """Trains a VAE and exports its weights to `workdir/weights`.

  Args:
    config: see `trainers/configs/vae.py`.
    workdir: the folder of the run.
    data_dir: where datasets lie, see `prepared.find`.

  Raises:
    errors.DatasetError: the rollouts are missing.
    loop.RunError: the folder holds a run with another config.
  """
  rollouts = prepared.find(config.dataset, data_dir)
  frames = functools.partial(
    loader.frames,
    rollouts.data_dir,
    batch_size=config.batch_size,
    seed=config.seed,
  )
  validation = list(
    itertools.islice(
      frames(split='validation', num_epochs=1), config.eval_batches
    )
  )
  state, scalars = loop.train(
    config,
    workdir,
    create_state(config),
    frames(split='train'),
    functools.partial(train_step, config),
    _evaluation(config, validation),
  )
  weights.save(
    workdir / 'weights',
    'vae',
    {'latent_size': config.latent_size},
    state.params,
    {
      'dataset': prepared.full_name(rollouts),
      'step': int(state.step),
      'validation': scalars,
    },
  )


def create_state(config: ml_collections.ConfigDict) -> train_state.TrainState:
  """Returns the state before the first step."""
  model = _model(config)

  @jax.jit
  def create(key: jax.Array) -> train_state.TrainState:
    observation = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    variables = model.init(key, observation, key)
    return train_state.TrainState.create(
      apply_fn=model.apply,
      params=variables['params'],
      tx=optax.adam(config.learning_rate),
    )

  return create(jax.random.key(config.seed))


def train_step(
  config: ml_collections.ConfigDict,
  state: train_state.TrainState,
  observation: jax.Array,
) -> tuple[train_state.TrainState, Metrics]:
  """Takes one step of gradient descent.

  Args:
    config: see `trainers/configs/vae.py`.
    state: before the step.
    observation: uint8 [B, 64, 64, 3], 0..255.

  Returns:
    The state after the step, and the metrics of the parameters before it.
  """
  key = jax.random.fold_in(jax.random.key(config.seed), state.step)

  def mean_loss(params):
    losses = _losses(config, params, observation, key)
    return losses.total.mean(), losses

  gradients, losses = jax.grad(mean_loss, has_aux=True)(state.params)
  return (
    state.apply_gradients(grads=gradients),
    Metrics.single_from_model_output(**losses._asdict()),
  )


def _model(config: ml_collections.ConfigDict) -> vae.VAE:
  return vae.VAE(latent_size=config.latent_size, dtype=config.dtype)


def _losses(
  config: ml_collections.ConfigDict, params, observation, key
) -> vae.Loss:
  reconstruction, posterior = _model(config).apply(
    {'params': params}, observation, key
  )
  return vae.loss(reconstruction, posterior, observation, config.free_nats)


def _evaluation(
  config: ml_collections.ConfigDict, validation: Sequence[np.ndarray]
) -> Callable[[Any], loop.Evaluation]:
  """Returns the function that judges parameters by the validation batches."""
  model = _model(config)
  baseline = _mean_frame_error(np.concatenate(validation))

  @jax.jit
  def eval_step(params, observation):
    key = jax.random.key(config.seed)
    losses = _losses(config, params, observation, key)
    return Metrics.single_from_model_output(**losses._asdict())

  @jax.jit
  def reconstruct(params, observation):
    variables = {'params': params}
    posterior = model.apply(variables, observation, method=vae.VAE.encode)
    decoded = model.apply(variables, posterior.mean, method=vae.VAE.decode)
    return vae.to_uint8(decoded)

  def evaluate(params) -> loop.Evaluation:
    collected = functools.reduce(
      Metrics.merge, (eval_step(params, batch) for batch in validation)
    )
    shown = validation[0][:_IMAGES]
    pairs = np.stack([shown, reconstruct(params, shown)])  # [2, N, 64, 64, 3]
    grid = np.concatenate(np.concatenate(pairs, axis=1), axis=1)
    return loop.Evaluation(
      scalars={**collected.compute(), 'mean_frame_baseline': baseline},
      images={'frames_above_reconstructions': grid[None]},
    )

  return evaluate


def _mean_frame_error(frames: np.ndarray) -> float:
  """Returns the reconstruction error of the best constant frame.

  Args:
    frames: uint8 [N, 64, 64, 3], 0..255.

  Returns:
    The squared error against the mean of these very frames, summed over pixels
    in 0..1, the mean over frames.
  """
  return float((frames / np.float32(255)).var(axis=0).sum())


if __name__ == '__main__':
  commands.train(train_and_export, 'trainers/configs/vae.py')
