from carracing_rollouts import environment
from carracing_rollouts import policies
import numpy as np
import pytest

ALL = sorted(policies.POLICIES)


def act(name, seeds, observations):
  """Returns actions [T, B, 3] for observations [T, B, 64, 64, 3]."""
  policy = policies.POLICIES[name]()
  carry = policy.initial_carry([np.random.SeedSequence(s) for s in seeds])
  actions = []
  for observation in observations:
    action, carry = policy(observation, carry)
    actions.append(action)
  return np.stack(actions)


@pytest.fixture
def observations():
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (20, 3, 64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize('name', ALL)
def test_actions_of_an_episode_do_not_depend_on_its_batch(name, observations):
  together = act(name, [5, 6, 7], observations)
  for i in range(3):
    alone = act(name, [5 + i], observations[:, i : i + 1])
    np.testing.assert_array_equal(together[:, i : i + 1], alone)
  differ = (together[:, 0] != together[:, 1]).any()
  assert differ or name == 'straight_ahead'


@pytest.mark.parametrize('name', ALL)
def test_actions_are_valid(name, observations):
  actions = act(name, [5, 6, 7], observations)
  assert actions.dtype == np.float32
  assert (actions >= environment.ACTION_LOW).all()
  assert (actions <= environment.ACTION_HIGH).all()


def test_random_policy_looks_at_the_frame(observations):
  actions = act('random_policy', [5], observations[:, :1])
  others = act('random_policy', [5], observations[:, 1:2])
  assert (actions != others).any()


def test_brownian_steps_are_small():
  observations = np.zeros((500, 1, 64, 64, 3), np.uint8)
  steps = np.diff(act('brownian', [0], observations), axis=0)
  # Unit variance a second is 1/50 a step; clipping can only shorten steps.
  assert 0.05 < steps.std() < 0.15
