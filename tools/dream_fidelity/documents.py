"""`fidelity.json`: how well dreams tell how drivers fare in the game."""

import math
from typing import Annotated

from carracing_data import json_documents
import numpy as np
import pydantic
from scipy import stats

FILE = 'fidelity.json'


class Estimate(json_documents.Document):
  """A number with its 95 % interval.

  The interval is symmetric, with the standard deviation over resampled tracks:
  resampling adds noise, which lowers correlations and raises errors, so their
  percentiles would miss the value.

  Attributes:
    value: the number.
    low: lower end of the interval.
    high: upper end.
  """

  value: float
  low: float
  high: float


class DriverRow(json_documents.Document):
  """One driver in one of the worlds.

  Attributes:
    reward_per_step: mean reward of a step.
    standard_error: of it, over tracks.
    total: mean sum of the rewards.
  """

  reward_per_step: float
  standard_error: pydantic.NonNegativeFloat
  total: float


class Subject(json_documents.Document):
  """What was compared.

  Attributes:
    drivers: which set of drivers, see `probes.SETS`.
    agent: digests of the weights of the agent's parts.
    mdn_rnn: digest of the weights of the M that dreams.
    temperature: see `mdn_rnn.Mixture.sample`.
    noise: see there.
    seed: random seed of the dreams.
    dreams_per_track: number of dreams of a driver on a track.
    max_steps: steps of an episode, of which the agent drives the first.
  """

  drivers: Annotated[
    str, pydantic.StringConstraints(pattern='^(development|held_out)$')
  ]
  agent: dict[str, json_documents.Sha256]
  mdn_rnn: json_documents.Sha256
  temperature: float
  noise: float
  seed: int
  dreams_per_track: int
  max_steps: int


class Fidelity(json_documents.Document):
  """How well dreams tell how drivers fare in the game.

  Attributes:
    subject: what was compared.
    tracks: number of tracks.
    game: drivers in the game, by name.
    dream: drivers in dreams, by name.
    spearman: rank correlation of the rewards per step.
    pearson: linear correlation.
    ceiling_spearman: rank correlation of the game with itself on resampled
      tracks, the mean: what as many other tracks would give.
    ceiling_pearson: linear correlation, likewise.
    error: root mean squared error of the rewards per step.
  """

  subject: Subject
  tracks: int
  game: dict[json_documents.Name, DriverRow]
  dream: dict[json_documents.Name, DriverRow]
  spearman: Estimate
  pearson: Estimate
  ceiling_spearman: float
  ceiling_pearson: float
  error: Estimate

  @pydantic.model_validator(mode='after')
  def _check_drivers(self) -> 'Fidelity':
    if not self.game or self.game.keys() != self.dream.keys():
      raise ValueError('game and dream have other drivers, or none')
    game, dream = (
      np.array([rows[name].reward_per_step for name in self.game])
      for rows in (self.game, self.dream)
    )
    for name, measure in MEASURES.items():
      found: Estimate = getattr(self, name)
      value = float(measure(game, dream))
      if not (
        math.isclose(found.value, value, rel_tol=1e-6, abs_tol=1e-9)
        and found.low <= found.value <= found.high
      ):
        raise ValueError(f'{name} is not that of the drivers')
    return self


# Of drivers on the last axis.


def _error(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  return np.sqrt(((x - y) ** 2).mean(-1))


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  return _pearson(stats.rankdata(x, axis=-1), stats.rankdata(y, axis=-1))


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  x, y = (a - a.mean(-1, keepdims=True) for a in (x, y))
  scale = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
  # Of drivers that are all alike, nothing tells the better one.
  found = (x * y).sum(-1) / np.where(scale > 0, scale, np.inf)
  return np.clip(found, -1, 1)  # But for rounding.


MEASURES = {'spearman': _spearman, 'pearson': _pearson, 'error': _error}
