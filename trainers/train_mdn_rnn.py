"""Trains M: `carracing_latents` → weights of an MDN-RNN.

python -m trainers.train_mdn_rnn --workdir=runs/mdn_rnn
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import math
from pathlib import Path
from typing import Any

from carracing_data import prepared
from carracing_latents import loader
from clu import metrics
import jax
import jax.numpy as jnp
import ml_collections
from models import mdn_rnn
from models import weights
import numpy as np
from trainers import checks
from trainers import commands
from trainers import loop
from trainers import state as train_state
from trainers import training_log

_EVAL_BATCH = 32  # The same for all configs, so that runs compare.


def train_and_export(
  config: ml_collections.ConfigDict,
  workdir: Path,
  data_dir: str | None,
  profile_steps: int = 0,
) -> None:
  """Trains an MDN-RNN and exports its weights to `workdir/weights`.

  Args:
    config: see `trainers/configs/mdn_rnn.py`.
    workdir: the folder of the run.
    data_dir: where datasets lie, see `prepared.find`.
    profile_steps: how many steps to profile.

  Raises:
    errors.DatasetError: the latents are missing.
    run_folder.RunError: the config is impossible, or the folder holds a run
      with another one.
  """
  checks.check(config)
  latents = prepared.find(config.dataset, data_dir)
  checks.check_window(config, latents)
  windows = functools.partial(
    loader.windows,
    latents.data_dir,
    window_steps=config.window_steps,
    sample=config.sample,
    seed=config.seed,
  )
  # Judged by samples even if trained on means, so that NLLs compare.
  validation = list(
    windows(
      split='validation', batch_size=_EVAL_BATCH, sample=True, num_epochs=1
    )
  )
  episodes = list(loader.episodes(latents.data_dir, split='validation'))
  references = _references(episodes)
  if config.predict_outcomes:
    references |= _outcome_references(episodes)
  latent_size = validation[0].targets.shape[-1]
  trained = loop.train(
    config,
    workdir,
    create_state(config, latent_size),
    latents,
    windows(
      split='train',
      batch_size=config.batch_size // jax.process_count(),
      shard_index=jax.process_index(),
      shard_count=jax.process_count(),
    ),
    functools.partial(train_step, config),
    _metrics(config, train_state.METRICS).empty(),
    _evaluation(config, validation, references),
    profile_steps,
  )
  if jax.process_index() == 0:
    weights.save(
      workdir / 'weights',
      'mdn_rnn',
      _model_config(config, latent_size),
      trained.params,
      {
        'dataset': prepared.full_name(latents),
        'vae_sha256': latents.info.metadata['config']['vae_sha256'],
        'step': trained.step,
        'validation': trained.scalars,
      },
    )


def create_state(
  config: ml_collections.ConfigDict, latent_size: int
) -> train_state.TrainState:
  """Returns the state before the first step."""
  model = _model(config, latent_size)

  @jax.jit
  def create(key: jax.Array) -> train_state.TrainState:
    inputs = jnp.zeros((1, 1, latent_size + 3))
    variables = model.init(key, inputs, model.initial_carry(1))
    return train_state.create(config, model.apply, variables['params'])

  return create(jax.random.key(config.seed))


def train_step(
  config: ml_collections.ConfigDict,
  state: train_state.TrainState,
  batch: loader.Windows,
) -> tuple[train_state.TrainState, metrics.Collection]:
  """Takes one step of gradient descent.

  Args:
    config: see `trainers/configs/mdn_rnn.py`.
    state: before the step.
    batch: windows, [B, T, ...].

  Returns:
    The state after the step, and the metrics of the parameters before it.
  """

  def mean_loss(params):
    losses = _losses(config, params, batch)
    return jnp.mean(losses.total, where=batch.mask), losses

  state, losses, of_step = train_state.take_step(config, state, mean_loss)
  # clu applies the mask to all metrics, so all have its shape.
  of_step = {
    name: jnp.broadcast_to(x, batch.mask.shape).ravel()
    for name, x in of_step.items()
  }
  metrics_class = _metrics(config, train_state.METRICS)
  return state, _measured(metrics_class, losses, batch, **of_step)


def _model_config(
  config: ml_collections.ConfigDict, latent_size: int
) -> dict[str, Any]:
  return {
    'latent_size': latent_size,
    'hidden_size': config.hidden_size,
    'num_mixtures': config.num_mixtures,
    'per_dimension': config.per_dimension,
    'predict_outcomes': config.predict_outcomes,
  }


def _model(
  config: ml_collections.ConfigDict, latent_size: int
) -> mdn_rnn.MDNRNN:
  return mdn_rnn.MDNRNN(
    **_model_config(config, latent_size), dtype=config.dtype
  )


def _losses(
  config: ml_collections.ConfigDict, params, batch: loader.Windows
) -> mdn_rnn.Loss:
  model = _model(config, batch.targets.shape[-1])
  carry = model.initial_carry(len(batch.inputs))
  prediction, _ = model.apply({'params': params}, batch.inputs, carry)
  return mdn_rnn.loss(prediction, batch.targets, batch.reward, batch.terminal)


def _metrics(
  config: ml_collections.ConfigDict,
  others: Mapping[str, type[metrics.Metric]],
) -> type[metrics.Collection]:
  """Returns means over transitions; see `mdn_rnn.Loss` for the units."""
  names = ['nll']
  if config.predict_outcomes:
    names += ['reward_error', 'termination_nll']
  averages = {name: metrics.Average.from_output(name) for name in names}
  return metrics.Collection.create(**averages, **others)


def _measured(
  metrics_class: type[metrics.Collection],
  losses: mdn_rnn.Loss,
  batch: loader.Windows,
  **others: jax.Array,
) -> metrics.Collection:
  terms = {
    name: x.ravel() for name, x in losses._asdict().items() if x is not None
  }
  return metrics_class.single_from_model_output(
    **terms, **others, mask=batch.mask.ravel()
  )


def _evaluation(
  config: ml_collections.ConfigDict,
  validation: Sequence[loader.Windows],
  references: Mapping[str, float],
) -> Callable[[Any], training_log.Evaluation]:
  """Returns the function that judges parameters by the validation windows."""
  metrics_class = _metrics(config, {})

  @jax.jit
  def eval_step(params, batch):
    return _measured(metrics_class, _losses(config, params, batch), batch)

  def evaluate(params) -> training_log.Evaluation:
    collected = functools.reduce(
      metrics_class.merge, (eval_step(params, batch) for batch in validation)
    )
    scalars = collected.compute()
    return training_log.Evaluation(
      float(scalars['nll']), {**scalars, **references}, images={}
    )

  return evaluate


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


def _outcome_references(
  episodes: Sequence[Mapping[str, Any]],
) -> dict[str, float]:
  """Returns the losses of predicting the same outcome at every step."""
  reward = np.concatenate([e['reward'][:-1] for e in episodes])
  rate = float(np.concatenate([e['is_terminal'][1:] for e in episodes]).mean())
  return {
    'reward_error_constant': float(reward.var()),
    'termination_nll_constant': _entropy(rate),
  }


def _entropy(rate: float) -> float:
  """Returns the entropy of what happens at this rate, nats."""
  return float(jax.scipy.special.entr(jnp.array([rate, 1 - rate])).sum())


if __name__ == '__main__':
  commands.train(
    train_and_export, 'trainers/configs/mdn_rnn.py', divide_cpu=True
  )
