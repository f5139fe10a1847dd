"""Trains V: `carracing_rollouts` → weights of a VAE.

python -m trainers.train_vae --workdir=runs/vae
"""

import functools
import itertools
from pathlib import Path

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
  model = vae.VAE(latent_size=config.latent_size)
  root_key = jax.random.key(config.seed)

  @jax.jit
  def init() -> train_state.TrainState:
    observation = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    variables = model.init(root_key, observation, root_key)
    return train_state.TrainState.create(
      apply_fn=model.apply,
      params=variables['params'],
      tx=optax.adam(config.learning_rate),
    )

  def loss_of(params, observation: jax.Array, key: jax.Array) -> vae.Loss:
    reconstruction, posterior = model.apply(
      {'params': params}, observation, key
    )
    return vae.loss(reconstruction, posterior, observation, config.free_nats)

  @functools.partial(jax.jit, donate_argnums=0)
  def train_step(state, observation):
    def mean_loss(params):
      key = jax.random.fold_in(root_key, state.step)
      losses = loss_of(params, observation, key)
      return losses.total.mean(), losses

    gradients, losses = jax.grad(mean_loss, has_aux=True)(state.params)
    return (
      state.apply_gradients(grads=gradients),
      Metrics.single_from_model_output(**losses._asdict()),
    )

  @jax.jit
  def eval_step(params, observation):
    return Metrics.single_from_model_output(
      **loss_of(params, observation, root_key)._asdict()
    )

  @jax.jit
  def reconstruct(params, observation):
    variables = {'params': params}
    posterior = model.apply(variables, observation, method=vae.VAE.encode)
    decoded = model.apply(variables, posterior.mean, method=vae.VAE.decode)
    return vae.to_uint8(decoded)

  validation = list(
    itertools.islice(
      frames(split='validation', num_epochs=1), config.eval_batches
    )
  )
  baseline = _mean_frame_error(np.concatenate(validation))

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

  state, scalars = loop.train(
    config, workdir, init(), frames(split='train'), train_step, evaluate
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
