"""Interventions: drawn at random, imposed, marked at every step."""

import itertools

from carracing_rollouts import interventions
from carracing_rollouts import rollout
import numpy as np
import pytest

GENERATE = {
  'seed': 0,
  'policy': 'brownian',
  'simulator': 'sketched',
  'max_steps': 200,
}


def imposed_on(probability, seeds, steps):
  """Returns what is imposed on episodes, float32 [steps, B, 3]."""
  carry = interventions.initial_carry(
    [np.random.SeedSequence(seed) for seed in seeds], probability
  )
  found = []
  for _ in range(steps):
    imposed, carry = interventions.draw(carry)
    found.append(imposed)
  return np.stack(found)


def test_interventions_are_random_actions_for_a_while():
  imposed = imposed_on([0.02], [1], 60_000)[:, 0]
  rows = [None if np.isnan(x[0]) else tuple(x) for x in imposed.tolist()]
  runs = [(row, len(list(x))) for row, x in itertools.groupby(rows)]
  # Two in a row that do nothing look like one.
  lengths = [n for row, n in runs[1:-1] if row and any(row)]
  assert min(lengths) == interventions.MIN_STEPS
  assert 0.9 * interventions.MAX_STEPS < max(lengths) <= interventions.MAX_STEPS
  # The median of a log-uniform draw is the geometric mean of its ends.
  middle = (interventions.MIN_STEPS * interventions.MAX_STEPS) ** 0.5
  assert np.median(lengths) == pytest.approx(middle, rel=0.15)
  begun = sum(row is not None for row, _ in runs)
  assert begun / rows.count(None) == pytest.approx(0.02, rel=0.15)

  done = np.array([row for row, _ in runs if row])
  assert (done >= [-1, 0, 0]).all() and (done <= 1).all()
  nothing = (done == 0).all(1).mean()
  assert nothing == pytest.approx(0.3 + 0.15 * 0.4, abs=0.06)
  steering, gas, brake = (done != 0).mean(0)
  assert steering == pytest.approx(0.7 * 0.6, abs=0.06)
  assert gas == pytest.approx(0.35, abs=0.06)
  assert brake == pytest.approx(0.26, abs=0.06)


def test_interventions_of_an_episode_do_not_depend_on_the_others():
  together = imposed_on([0.05, 0, 0.05], [1, 2, 3], 500)
  assert np.isnan(together[:, 1]).all()
  for index, seed in (0, 1), (2, 3):
    alone = imposed_on([0.05], [seed], 500)
    np.testing.assert_array_equal(alone[:, 0], together[:, index])
  assert not np.array_equal(together[:, 0], together[:, 2], equal_nan=True)


def test_steps_tell_interventions_from_what_the_driver_does():
  plain = rollout.generate('train', 0, interventions=0.0, **GENERATE)
  episode = rollout.generate('train', 0, interventions=0.05, **GENERATE)
  assert not plain.is_intervention.any()
  imposed = episode.is_intervention
  assert 0 < imposed.sum() < len(imposed) - 1 and not imposed[-1]
  # This policy does what it would have done anyway, whatever was imposed.
  np.testing.assert_array_equal(
    episode.action[~imposed], plain.action[~imposed]
  )
  assert (episode.action[imposed] != plain.action[imposed]).any(1).all()
