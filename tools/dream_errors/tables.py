"""Errors of a world model → tables that compare drivers, and horizons."""

from collections.abc import Mapping, Sequence

import numpy as np
from tools.dream_errors import accuracy


def by_driver(
  found: Mapping[str, accuracy.Accuracy],
  horizons: Sequence[int] = accuracy.HORIZONS,
) -> tuple[list[str], list[list[str]]]:
  """Returns head and rows of a table that compares drivers.

  Of the rewards it shows correlation; error; bias.
  """
  head = [
    'driven by',
    'episodes',
    'V: squared error',
    'M: NLL',
    'M: gap to the floor',
    f'reward of {max(horizons)} steps: standard deviation',
    *(f'{name}: correlation; error; bias' for name in accuracy.DREAMS),
  ]
  rows = []
  for title, of_one in found.items():
    rewards = [of_one.rewards.get(name) for name in accuracy.DREAMS]
    rows.append(
      [
        title,
        f'{of_one.episodes:,}',
        f'{np.mean(of_one.errors[accuracy.V_ALONE].frame):.1f}',
        f'{of_one.nll:.3f}',
        f'{of_one.nll - of_one.nll_floor:.3f}',
        f'{of_one.reward_std:.1f}',
        *map(_show, rewards),
      ]
    )
  return head, rows


def _show(rewards: accuracy.Rewards | None) -> str:
  if rewards is None:
    return '–'
  correlation = rewards.correlation
  shown = '–' if correlation is None else f'{correlation:.2f}'
  return f'{shown}; {rewards.error:.1f}; {rewards.bias:+.1f}'


def by_horizon(
  found: accuracy.Accuracy, horizons: Sequence[int] = accuracy.HORIZONS
) -> tuple[list[str], list[list[str]]]:
  """Returns head and rows of a table of errors by horizon."""
  head = [f'{kind} +{steps}' for kind in ('z', 'frame') for steps in horizons]
  rows = [
    [
      name,
      *(f'{x:.3f}' for x in errors.latent),
      *(f'{x:.1f}' for x in errors.frame),
    ]
    for name, errors in found.errors.items()
  ]
  return ['', *head], rows
