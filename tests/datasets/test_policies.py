import subprocess
import sys

from carracing_data import errors
from carracing_data import rlds_steps
from carracing_rollouts import policies
import numpy as np
import pytest

ALL = [*policies._POLICIES, 'straight_ahead:gas=1']


def act(name, seeds, observations):
  """Returns actions [T, B, 3] for observations [T, B, 64, 64, 3]."""
  policy = policies.make(name)
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
  assert differ or name.startswith('straight_ahead')


@pytest.mark.parametrize('name', ALL)
def test_actions_are_valid(name, observations):
  actions = act(name, [5, 6, 7], observations)
  assert actions.dtype == np.float32
  assert (actions >= rlds_steps.ACTION_LOW).all()
  assert (actions <= rlds_steps.ACTION_HIGH).all()


def test_random_policy_looks_at_the_frame(observations):
  actions = act('random_policy', [5], observations[:, :1])
  others = act('random_policy', [5], observations[:, 1:2])
  assert (actions != others).any()


def test_brownian_steps_are_small():
  observations = np.zeros((500, 1, 64, 64, 3), np.uint8)
  differences = np.diff(act('brownian', [0], observations), axis=0)
  # Unit variance per second is 1/50 per step; clipping only shortens steps.
  assert 0.05 < differences.std() < 0.15


def test_arguments_change_the_actions(observations):
  default, full = (
    act(spec, [5], observations[:, :1])
    for spec in ('straight_ahead', 'straight_ahead:gas=1')
  )
  np.testing.assert_array_equal(default[:, 0], [[0, np.float32(0.4), 0]] * 20)
  np.testing.assert_array_equal(full[:, 0], [[0, 1, 0]] * 20)


@pytest.mark.parametrize(
  'spec',
  [
    '',
    'expert',
    'uniform:gas=1',
    'straight_ahead:',
    'straight_ahead:gas',
    'straight_ahead:speed=1',
    'straight_ahead:gas=full',
    'straight_ahead:gas=nan',
    'straight_ahead:gas=1.1',
    'straight_ahead:gas=1,gas=1',
  ],
)
def test_a_bad_spec_is_named_beside_what_there_is(spec):
  with pytest.raises(errors.DatasetError) as caught:
    policies.make(spec)
  assert str(caught.value) == (
    'a policy is one of brownian, random_policy, straight_ahead[:gas=0..1],'
    f' uniform, not {spec!r}'
  )


def test_recorded_actions_are_those_of_their_episode():
  recorded = [np.full((2, 3), 0.1), np.full((3, 3), 0.2)]
  policy = policies.RecordedPolicy(recorded)
  carry = policy.initial_carry([np.random.SeedSequence(0)] * 2)
  action, carry = policy(np.zeros(2), carry)
  np.testing.assert_array_equal(action[:, 0], [0.1, 0.2])
  action, carry = policy(np.zeros(1), carry[[1]])
  np.testing.assert_array_equal(action[:, 0], [0.2])


@pytest.mark.parametrize(
  ('modules', 'absent'),
  [
    ('policies, schema', "'cv2', 'gymnasium', 'jax', 'pygame', 'tensorflow'"),
    ('loader', "'gymnasium', 'pygame', 'tensorflow'"),  # TFDS imports cv2.
  ],
)
def test_reading_and_choosing_actions_import_no_simulator(modules, absent):
  code = f"""
import sys
from carracing_rollouts import {modules}
print({{{absent}}} & set(sys.modules))
"""
  done = subprocess.run(
    [sys.executable, '-c', code], check=True, capture_output=True, text=True
  )
  assert done.stdout == 'set()\n'
