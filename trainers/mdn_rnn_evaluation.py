"""M's model and losses for a config, and its evaluation on whole episodes."""

from collections.abc import Callable, Mapping, Sequence
import functools
import math
from typing import Any

from carracing_data import prepared_dataset
from carracing_latents import loader
from clu import metrics
import jax
import jax.numpy as jnp
from models import mdn_rnn
from models import weights
import numpy as np
from trainers import devices
from trainers import optimizer
from trainers import training_log
from trainers.configs import mdn_rnn as mdn_rnn_config

_EVAL_BATCH = 32
_EVAL_SEED = 0  # Fixed, so that runs with different seeds are comparable.
# First and last transition of each part of an episode, counted from 1.
_POSITIONS = (1, 50), (51, 200), (201, 1000)


def model_config(
  config: mdn_rnn_config.Config, latent_size: int
) -> dict[str, Any]:
  """Returns the arguments of M's constructor that are exported with it."""
  return {
    'latent_size': latent_size,
    'hidden_size': config.hidden_size,
    'num_mixtures': config.num_mixtures,
    'per_dimension': config.per_dimension,
    'predict_outcomes': config.predict_outcomes,
  }


def model(config: mdn_rnn_config.Config, latent_size: int) -> mdn_rnn.MDNRNN:
  """Returns M as it is trained."""
  make = weights.architecture('mdn_rnn', config.architecture)
  return make(**model_config(config, latent_size), dtype=config.dtype)


def losses(
  config: mdn_rnn_config.Config, params, batch: loader.Windows
) -> mdn_rnn.Loss:
  """Returns the losses of windows, [B, T], from M's initial carry."""
  m = model(config, batch.z.shape[-1])
  carry = m.initial_carry(len(batch.z))
  prediction, _ = m.apply({'params': params}, batch.z, batch.action, carry)
  return mdn_rnn.loss(prediction, batch.next_z, batch.reward, batch.terminal)


def metrics_class(
  config: mdn_rnn_config.Config, training: bool
) -> type[metrics.Collection]:
  """Returns the means over transitions; units: see `mdn_rnn.Loss`."""
  names = ['nll']
  if config.predict_outcomes:
    names += ['reward_nll', 'reward_error', 'termination_nll']
  averages = training_log.averages(*names)
  if training:
    averages['loss'] = metrics.Average.from_output('total')
    averages |= optimizer.METRICS
  return metrics.Collection.create(**averages)


def measured(
  collection: type[metrics.Collection],
  loss: mdn_rnn.Loss,
  batch: loader.Windows,
  **others: jax.Array,
) -> metrics.Collection:
  """Returns metrics of windows, unpadded: losses [B, T], others [B · T]."""
  terms = {
    name: x.ravel() for name, x in loss._asdict().items() if x is not None
  }
  return collection.single_from_model_output(
    **terms, **others, mask=batch.mask.ravel()
  )


def whole_episodes(
  latents: Sequence[prepared_dataset.Dataset],
) -> list[loader.Windows]:
  """Returns the uncut validation episodes, on which M is evaluated.

  Their latents are posterior samples, the same for every run.
  """
  windows = loader.windows(
    [str(x.folder) for x in latents],
    split='validation',
    batch_size=_EVAL_BATCH,
    window_steps=longest(latents, 'validation') - 1,
    seed=_EVAL_SEED,
    num_epochs=1,
  )
  return list(windows)


def longest(latents: Sequence[prepared_dataset.Dataset], *splits: str) -> int:
  """Returns the number of steps of the longest episode."""
  return max(
    max(x.splits[split].episode_steps) for x in latents for split in splits
  )


def evaluation(
  config: mdn_rnn_config.Config,
  validation: Sequence[loader.Windows],
  references: Mapping[str, float],
) -> Callable[[Any], training_log.Evaluation]:
  """Returns a function that evaluates parameters on `whole_episodes`.

  The carry is never reset within an episode, as when the model is used, so
  models trained on windows of different lengths are comparable. The NLL is also
  reported by position in the episode. Of the config, only the model's settings
  matter; the references are added to the scalars of every evaluation.
  """
  collection = metrics_class(config, training=False)

  @devices.jit_evaluation
  def eval_step(params, batch):
    of_batch = losses(config, params, batch)
    return measured(collection, of_batch, batch), of_batch.nll

  def evaluate(params) -> training_log.Evaluation:
    collected, nlls = zip(*(eval_step(params, batch) for batch in validation))
    scalars = training_log.floats(
      functools.reduce(collection.merge, collected).compute()
    )
    nll = np.concatenate(nlls)  # [episodes, T]
    mask = np.concatenate([batch.mask for batch in validation])
    for first, last in _POSITIONS:
      of_position = nll[:, first - 1 : last][mask[:, first - 1 : last]]
      if of_position.size:
        scalars[f'nll_{first}_{last}'] = float(of_position.mean())
    return training_log.Evaluation(
      scalars['nll'], {**scalars, **references}, _results(scalars, references)
    )

  return evaluate


def _results(
  scalars: Mapping[str, float], references: Mapping[str, float]
) -> list[training_log.Result]:
  """Returns the results to show, with their baselines."""
  compared = {
    'nll': (
      'NLL of the next z, nats per dimension',
      {'z does not change': 'nll_no_change', 'floor': 'nll_floor'},
    ),
    'reward_error': (
      'squared error of the reward',
      {'best constant': 'reward_error_constant'},
    ),
    'termination_nll': (
      'NLL of terminations, nats',
      {'best constant': 'termination_nll_constant'},
    ),
  }
  if not references.get('termination_nll_constant'):
    compared.pop('termination_nll')  # No episode terminates.
  return [
    training_log.Result(
      title,
      scalars[name],
      {k: references[v] for k, v in baselines.items() if v in references},
    )
    for name, (title, baselines) in compared.items()
    if name in scalars
  ]


def baselines(
  episodes: Sequence[Mapping[str, Any]], predict_outcomes: bool
) -> dict[str, float]:
  """Returns the losses that M is compared with on these episodes.

  Those of `nll_baselines`; with outcomes also `reward_error_constant` and
  `termination_nll_constant`, the losses of their best constant prediction, see
  `mdn_rnn.Loss`.
  """
  losses = nll_baselines(episodes)
  if predict_outcomes:
    reward = np.concatenate([e['reward'][:-1] for e in episodes])
    terminal = np.concatenate([e['is_terminal'][1:] for e in episodes])
    rate = float(terminal.mean())
    entropy = jax.scipy.special.entr(jnp.array([rate, 1 - rate])).sum()
    losses['reward_error_constant'] = float(reward.var())
    losses['termination_nll_constant'] = float(entropy)
  return losses


def nll_baselines(episodes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Returns `nll_floor` and `nll_no_change`, nats per latent dimension.

  The targets are samples from the posterior of the next frame, so even a model
  that knows this posterior cannot get below its entropy, the *floor*. The other
  one predicts that z does not change, with a constant standard deviation per
  dimension that is optimal for these episodes, records of the latents dataset.
  """
  target_logvar = np.concatenate([e['logvar'][1:] for e in episodes])
  # Expectation over the posterior samples of both steps.
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
