"""Latent episodes → the losses that M is compared with."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def of_latents(episodes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Returns the floor and the baseline of the NLL on these episodes.

  The targets are samples from the posterior of the next frame, so even a model
  that knows this posterior cannot get below its entropy, the *floor*. The
  *baseline* predicts that z does not change, with a constant standard deviation
  per dimension that is optimal for these episodes.

  Args:
    episodes: records of the latents dataset.

  Returns:
    `nll_floor` and `nll_no_change`, nats per latent dimension.
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


def of_outcomes(
  episodes: Sequence[Mapping[str, Any]],
) -> dict[str, float]:
  """Returns the losses of the best constant prediction of the outcomes.

  Args:
    episodes: records of the latents dataset.

  Returns:
    `reward_error_constant` and `termination_nll_constant`, see `mdn_rnn.Loss`.
  """
  reward = np.concatenate([e['reward'][:-1] for e in episodes])
  rate = float(np.concatenate([e['is_terminal'][1:] for e in episodes]).mean())
  return {
    'reward_error_constant': float(reward.var()),
    'termination_nll_constant': _entropy(rate),
  }


def _entropy(rate: float) -> float:
  """Returns the entropy of an event with this probability, in nats."""
  return float(jax.scipy.special.entr(jnp.array([rate, 1 - rate])).sum())
