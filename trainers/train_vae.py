"""Trains V, the VAE, on rollouts and exports its weights.

  python -m trainers.train_vae --workdir=runs/vae

Reads the prepared dataset `carracing_rollouts`. Writes checkpoints, TensorBoard
logs and the exported weights to the workdir. The same command continues an
interrupted run.
"""

from __future__ import annotations  # Types of modules that load lazily.

from collections.abc import Callable, Sequence
import functools
from pathlib import Path
from typing import Any

from absl import logging
from carracing_data import command_line
from etils import epy
import ml_collections
from trainers import common_flags
from trainers.configs import vae as vae_config

with epy.lazy_imports():
  from carracing_data import prepared_dataset
  from carracing_rollouts import loader
  from carracing_rollouts import schema
  from clu import metrics
  import jax
  import jax.numpy as jnp
  from models import vae
  from models import weights
  import numpy as np
  from trainers import devices
  from trainers import loop
  from trainers import optimizer
  from trainers import run_folder
  from trainers import supervised_learner
  from trainers import training_log
  from trainers.configs import base

_IMAGES = 8  # Number of reconstructions to show.
_EVAL_BATCH = 100
_EVAL_SEED = 0  # Fixed, so that runs with different seeds are comparable.
_COLLAPSED_NATS = 0.01  # A latent dimension with a lower mean KL is unused.


@functools.cache
def _metrics(training: bool) -> type[metrics.Collection]:
  """Returns the metrics of an evaluation, or of training."""
  return metrics.Collection.create(
    loss=metrics.Average.from_output('total'),
    **training_log.averages('reconstruction', 'kl'),
    **(optimizer.METRICS if training else {}),
  )


def train(
  config: ml_collections.ConfigDict | vae_config.Config,
  workdir: Path,
  data_dir: str | None,
  options: training_log.Options | None = None,
) -> None:
  """Trains a VAE and exports its weights to `workdir/weights`.

  Args:
    config: see `trainers/configs/vae.py`.
    workdir: folder of the run.
    data_dir: data directory of the rollouts; see `prepared_dataset.find`.
    options: profiling and logging options.

  Raises:
    errors.UserError: the rollouts are missing, the config is invalid, the
      folder holds a run with a different config or cannot be written, or the
      run cannot continue.
  """
  config = base.validated(config, vae_config.Config)
  weights.architecture('vae', config.architecture)  # Fails if it is unknown.
  devices.check_batch_size(config.batch_size)
  rollouts = prepared_dataset.find_all(config.dataset, data_dir, schema.KIND)
  loop.train_and_evaluate(
    config,
    workdir,
    run_folder.dataset_sources(rollouts),
    run_folder.Export(
      'vae',
      {'latent_size': config.latent_size},
      {'dataset': ' + '.join(x.full_name for x in rollouts)},
      architecture=config.architecture,
    ),
    lambda: make_learner(config, rollouts, workdir),
    options or training_log.Options(),
  )


def make_learner(
  config: vae_config.Config,
  rollouts: Sequence[prepared_dataset.Dataset],
  workdir: Path,
) -> supervised_learner.SupervisedLearner:
  """Returns the learner of V on rollouts, before the first step."""
  folders = [str(x.folder) for x in rollouts]
  validation = loader.spread_frames(
    folders, split='validation', count=config.eval_frames
  )
  return supervised_learner.SupervisedLearner(
    config,
    create_train_state(config),
    loader.frames(folders, split='train', **devices.host_part(config)),
    functools.partial(train_step, config),
    _metrics(training=True),
    evaluation(config, validation),
    workdir,
  )


def create_train_state(config: vae_config.Config) -> optimizer.TrainState:
  """Returns the train state before the first step."""
  model = _model(config)

  @jax.jit
  def create(key: jax.Array) -> optimizer.TrainState:
    observation = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    variables = model.init(key, observation, key)
    return optimizer.create_train_state(config, variables['params'])

  return create(jax.random.key(config.seed))


def train_step(
  config: vae_config.Config,
  state: optimizer.TrainState,
  observation: jax.Array,
) -> tuple[optimizer.TrainState, metrics.Collection]:
  """Takes one gradient step on frames, uint8 [B, 64, 64, 3], 0..255.

  Returns:
    The train state after the step, and the metrics of the parameters before it.
  """
  key = jax.random.fold_in(jax.random.key(config.seed), state.step)
  latent_key = jax.random.split(key)[0]

  def mean_loss(params):
    reconstruction, posterior = _model(config).apply(
      {'params': params}, observation, latent_key
    )
    losses = vae.loss(
      reconstruction,
      posterior,
      observation,
      free_nats=config.free_nats,
      kl_weight=config.kl_weight,
    )
    return losses.total.mean(), losses

  state, losses, of_step = optimizer.take_step(config, state, mean_loss)
  of_frames = losses._asdict()
  return state, _metrics(training=True).single_from_model_output(
    **of_frames, **of_step
  )


def _model(config: vae_config.Config) -> vae.VAE:
  make = weights.architecture('vae', config.architecture)
  return make(latent_size=config.latent_size, dtype=config.dtype)


def evaluation(
  config: vae_config.Config, validation: np.ndarray
) -> Callable[[Any], training_log.Evaluation]:
  """Returns a function that evaluates parameters on frames.

  The frames are uint8 [N, 64, 64, 3], 0..255. Runs with different configs and
  seeds are comparable: all are evaluated on the same frames, with the same
  latent noise and loss, plain squared error + KL. Of the config, only the
  model's settings matter.
  """
  model, metrics_class = _model(config), _metrics(training=False)
  # The squared error of the best constant frame, summed over pixels in 0..1.
  baseline = float((validation / np.float32(255)).var(axis=0).sum())
  batches = [
    validation[i : i + _EVAL_BATCH]
    for i in range(0, len(validation), _EVAL_BATCH)
  ]

  @devices.jit_evaluation
  def eval_step(params, observation, index):
    key = jax.random.fold_in(jax.random.key(_EVAL_SEED), index)
    variables = {'params': params}
    reconstruction, posterior = model.apply(variables, observation, key)
    losses = vae.loss(reconstruction, posterior, observation, free_nats=0.0)
    of_frames = losses._asdict()
    return metrics_class.single_from_model_output(**of_frames), posterior

  @jax.jit
  def reconstruct(params, observation):
    variables = {'params': params}
    posterior = model.apply(variables, observation, method='encode')
    decoded = model.apply(variables, posterior.mean, method='decode')
    return vae.to_uint8(decoded)

  def evaluate(params) -> training_log.Evaluation:
    collected, posteriors = zip(
      *(eval_step(params, batch, index) for index, batch in enumerate(batches))
    )
    scalars = functools.reduce(metrics_class.merge, collected).compute()
    places = np.linspace(0, len(validation) - 1, _IMAGES).round().astype(int)
    shown = validation[places]
    pairs = np.stack([shown, reconstruct(params, shown)])  # [2, N, 64, 64, 3]
    grid = np.concatenate(np.concatenate(pairs, axis=1), axis=1)
    scalars = training_log.floats(scalars)
    statistics = _posterior_statistics(posteriors)
    return training_log.Evaluation(
      loss=scalars['loss'],
      scalars={**scalars, **statistics, 'mean_frame_baseline': baseline},
      results=[
        training_log.Result(
          'squared error of a frame',
          scalars['reconstruction'],
          {'best constant frame': baseline},
        ),
        training_log.Result('KL, nats', scalars['kl']),
        training_log.Result(
          'latent dimensions in use', statistics['active_dimensions']
        ),
      ],
      images={'frames_above_reconstructions': grid[None]},
    )

  return evaluate


def _posterior_statistics(
  posteriors: Sequence[vae.Posterior],
) -> dict[str, float]:
  """Measures the use of the latent dimensions; warns if most are unused.

  Returns:
    The number of dimensions whose mean KL is not near zero, the standard
    deviation of the posterior means over frames, and the mean standard
    deviation of the posteriors; the last two are averaged over dimensions.
  """
  kl = np.concatenate([p.kl() for p in posteriors]).mean(axis=0)
  mean = np.concatenate([p.mean for p in posteriors])
  std = np.exp(np.concatenate([p.logvar for p in posteriors]) / 2)
  active = int((kl > _COLLAPSED_NATS).sum())
  if active < len(kl) / 2:
    logging.warning(
      'Only %d of %d latent dimensions carry information about the frame.',
      active,
      len(kl),
    )
  return {
    'active_dimensions': active,
    'posterior_mean_spread': float(mean.std(axis=0).mean()),
    'posterior_std': float(std.mean()),
  }


def _inputs(config: ml_collections.ConfigDict, data_dir: str | None) -> str:
  """Returns what a run reads, for people."""
  rollouts = prepared_dataset.find_all(
    str(config.get('dataset')), data_dir, schema.KIND
  )
  return ' + '.join(x.citation for x in rollouts)


if __name__ == '__main__':
  common_flags.run(
    train,
    'V',
    {'vae.py': vae_config.Config},
    lambda: [command_line.data_dir_flag()],
    _inputs,
  )
