"""Trains M, the MDN-RNN, on latents and exports its weights.

  python -m trainers.train_mdn_rnn --workdir=runs/mdn_rnn

Reads the prepared dataset `carracing_latents`. Writes checkpoints, TensorBoard
logs and the exported weights to the workdir. The same command continues an
interrupted run.
"""

from __future__ import annotations  # Types of modules that load lazily.

from collections.abc import Sequence
import functools
from pathlib import Path
from typing import Any

from absl import flags
from absl import logging
from carracing_data import command_line
from etils import epy
import ml_collections
from trainers import common_flags
from trainers import run_documents
from trainers.configs import mdn_rnn as mdn_rnn_config

with epy.lazy_imports():
  from carracing_data import prepared_dataset
  from carracing_data import runtime
  from carracing_latents import loader
  from carracing_latents import schema
  from clu import metrics
  import jax
  import jax.numpy as jnp
  from models import start_states
  from models import weights
  from trainers import devices
  from trainers import loop
  from trainers import mdn_rnn_evaluation
  from trainers import optimizer
  from trainers import run_folder
  from trainers import supervised_learner
  from trainers import training_log
  from trainers.configs import base


def train(
  config: ml_collections.ConfigDict | mdn_rnn_config.Config,
  workdir: Path,
  data_dir: str | None,
  initial_weights: str | None = None,
  options: training_log.Options | None = None,
) -> None:
  """Trains an MDN-RNN and exports its weights to `workdir/weights`.

  Args:
    config: see `trainers/configs/mdn_rnn.py`.
    workdir: folder of the run.
    data_dir: data directory of the latents; see `prepared_dataset.find`.
    initial_weights: folder of exported weights from which to train on; None:
      they are drawn at random.
    options: profiling and logging options.

  Raises:
    errors.UserError: the latents are missing or of different VAEs, the initial
      weights are missing or do not fit, the config is invalid, the folder holds
      a run with a different config or cannot be written, or the run cannot
      continue.
  """
  config = base.validated(config, mdn_rnn_config.Config)
  make = weights.architecture('mdn_rnn', config.architecture)
  devices.check_batch_size(config.batch_size)
  latents = prepared_dataset.find_all(config.dataset, data_dir, schema.KIND)
  vae_sha256 = latents[0].config['vae_sha256']
  for other in latents[1:]:
    if other.config['vae_sha256'] != vae_sha256:
      raise run_documents.RunError(
        f'{other.full_name} was encoded by another VAE than'
        f' {latents[0].full_name}; encode its rollouts with the same VAE'
      )
  longest = mdn_rnn_evaluation.longest(latents, 'train', 'validation') - 1
  if config.window_steps > longest:
    raise run_documents.RunError(
      f'invalid config: window_steps: the longest episode of {config.dataset}'
      f' has {longest} transitions, fewer than {config.window_steps}'
    )
  sources = run_folder.dataset_sources(latents)
  model_config = mdn_rnn_evaluation.model_config(
    config, latents[0].feature_sizes['latent_size']
  )
  params = None
  if initial_weights is not None:
    initial = run_folder.initial_weights(
      initial_weights,
      'mdn_rnn',
      vae_sha256,
      model_config,
      config.architecture,
    )
    params = initial.variables['params']
    sources['initial_weights'] = run_folder.weights_source(initial)
  train_episodes = _episodes(latents, 'train')
  export = run_folder.Export(
    'mdn_rnn',
    model_config,
    {
      'dataset': ' + '.join(x.full_name for x in latents),
      'vae_sha256': vae_sha256,
    },
    lambda params: start_states.collect(
      make(**model_config), params, train_episodes
    ),
    config.architecture,
  )
  loop.train_and_evaluate(
    config,
    workdir,
    sources,
    export,
    lambda: make_learner(config, latents, workdir, params),
    options or training_log.Options(),
  )


def make_learner(
  config: mdn_rnn_config.Config,
  latents: Sequence[prepared_dataset.Dataset],
  workdir: Path,
  params: Any = None,
) -> supervised_learner.SupervisedLearner:
  """Returns the learner of M on latents of one VAE, before the first step.

  Without parameters, they are drawn at random.
  """
  if config.predict_outcomes and not any(
    x.splits['train'].num_terminated for x in latents
  ):
    logging.info(
      'No episode of %s terminates, as is usual; M will expect that none does.',
      config.dataset,
    )
  # In memory, because each baseline goes through the episodes anew.
  baselines = mdn_rnn_evaluation.baselines(
    list(_episodes(latents, 'validation')), config.predict_outcomes
  )
  return supervised_learner.SupervisedLearner(
    config,
    create_train_state(config, latents[0].feature_sizes['latent_size'], params),
    loader.windows(
      [str(x.folder) for x in latents],
      split='train',
      window_steps=config.window_steps,
      **devices.host_part(config),
    ),
    functools.partial(train_step, config),
    mdn_rnn_evaluation.metrics_class(config, training=True),
    mdn_rnn_evaluation.evaluation(
      config, mdn_rnn_evaluation.whole_episodes(latents), baselines
    ),
    workdir,
  )


def create_train_state(
  config: mdn_rnn_config.Config, latent_size: int, params: Any = None
) -> optimizer.TrainState:
  """Returns the train state before the first step.

  Without parameters, they are drawn at random.
  """
  model = mdn_rnn_evaluation.model(config, latent_size)

  @jax.jit
  def create(key: jax.Array, params: Any) -> optimizer.TrainState:
    z, action = jnp.zeros((1, 1, latent_size)), jnp.zeros((1, 1, 3))
    if params is None:
      params = model.init(key, z, action, model.initial_carry(1))['params']
    return optimizer.create_train_state(config, params)

  return create(jax.random.key(config.seed), params)


def train_step(
  config: mdn_rnn_config.Config,
  state: optimizer.TrainState,
  batch: loader.Windows,
) -> tuple[optimizer.TrainState, metrics.Collection]:
  """Takes one gradient step on windows, [B, T, ...].

  Returns:
    The train state after the step, and the metrics of the parameters before it.
  """

  def mean_loss(params):
    losses = mdn_rnn_evaluation.losses(config, params, batch)
    return jnp.mean(losses.total, where=batch.mask), losses

  state, losses, of_step = optimizer.take_step(config, state, mean_loss)
  # clu applies the mask to all metrics, so all need its shape.
  of_step = {
    name: jnp.broadcast_to(x, batch.mask.shape).ravel()
    for name, x in of_step.items()
  }
  return state, mdn_rnn_evaluation.measured(
    mdn_rnn_evaluation.metrics_class(config, training=True),
    losses,
    batch,
    **of_step,
  )


def _episodes(
  latents: Sequence[prepared_dataset.Dataset], split: str
) -> Sequence[Any]:
  """Returns the episodes of all datasets, each read on access."""
  return prepared_dataset.concatenated([x.records(split) for x in latents])


def _input_flags() -> list[flags.FlagHolder]:
  return [
    command_line.data_dir_flag(),
    flags.DEFINE_string(
      'initial_weights',
      None,
      'Folder of exported weights from which to train on. By default, they are'
      ' drawn at random.',
    ),
  ]


def _cpu_devices(config: ml_collections.ConfigDict) -> int:
  batch_size = config.get('batch_size')
  if not isinstance(batch_size, int) or batch_size < 1:
    return 1
  return runtime.devices_for_batches(batch_size)


def _inputs(
  config: ml_collections.ConfigDict,
  data_dir: str | None,
  initial_weights: str | None,
) -> str:
  """Returns what a run reads, for people."""
  latents = prepared_dataset.find_all(
    str(config.get('dataset')), data_dir, schema.KIND
  )
  begun = '' if initial_weights is None else f', from {initial_weights}'
  return ' + '.join(x.citation for x in latents) + begun


if __name__ == '__main__':
  common_flags.run(
    train,
    'M',
    {'mdn_rnn.py': mdn_rnn_config.Config},
    _input_flags,
    _inputs,
    _cpu_devices,
  )
