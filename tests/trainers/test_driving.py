"""The trainer drives as the exported agent does."""

from carracing_rollouts import environment
from carracing_rollouts import tracks
from models import agent
import numpy as np
import pytest
from tools.driving import jobs
from trainers.control import driving
from trainers.control import fleet as fleet_lib
from trainers.control import practice
from trainers.control import standardisation


def test_scores_equal_those_of_the_agent(agent_folder):
  driver = agent.load(agent_folder)
  fleet = fleet_lib.Fleet(3, practice.Rules('gymnasium'))
  # The first three cars and then three others, in the same places.
  seeds = tracks.DEVELOPMENT[:6]
  found = driving.score(
    fleet,
    driver.c,
    driver.model,
    driving.linear,
    driver.c_variables['params'],
    seeds,
    stuck_steps=45,
  )
  fleet.close()
  assert len({*found.steps.tolist()}) > 1
  for seed, steps, score in zip(seeds, found.steps, found.returns):
    games = environment.Environments([seed], int(steps))
    [expected] = jobs.drive(games, driver, [jobs.policy_seed(seed)])
    assert expected.scores()[-1] == pytest.approx(score, abs=1e-3)


def test_folded_parameters_are_those_of_the_controller(agent_folder):
  driver = agent.load(agent_folder)
  layer = driver.c_variables['params']['linear']
  size = len(layer['kernel'])
  moments = standardisation.Moments(np.zeros(size), np.ones(size))
  params = standardisation.folded(layer, moments)
  for name, value in params['linear'].items():
    np.testing.assert_array_equal(value, layer[name])


def test_unfolded_parameters_are_for_standardised_features():
  rng = np.random.default_rng(0)
  moments = standardisation.Moments(rng.normal(3, 1, 7), rng.uniform(0.1, 2, 7))
  layer = {'kernel': rng.normal(size=(7, 3)), 'bias': rng.normal(size=3)}
  x = rng.normal(3, 2, (5, 7))
  found = standardisation.unfolded({'linear': layer}, moments)
  np.testing.assert_allclose(
    (x - moments.mean) / moments.std @ found['kernel'] + found['bias'],
    x @ layer['kernel'] + layer['bias'],
    rtol=1e-4,
    atol=1e-5,
  )
