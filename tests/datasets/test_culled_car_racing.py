"""Our simulator must equal Gymnasium's own bit for bit."""

from carracing_data import rlds_steps
from carracing_rollouts import culled_car_racing
from carracing_rollouts import environment
from carracing_rollouts import policies
from carracing_rollouts import rollout
from conftest import drive_from_poses
import gymnasium
from gymnasium.envs.box2d import car_racing
import numpy as np


def drive_both(seed, actions):
  """Drives until the episode ends; returns our last step."""
  actions = np.asarray(actions, np.float32)
  stock = gymnasium.make('CarRacing-v3', max_episode_steps=len(actions))
  frame, _ = stock.reset(seed=seed)
  step, ended = None, False
  for step in rollout.play(
    environment.Environments([seed], len(actions)),
    policies.RecordedPolicy([actions]),
    [np.random.SeedSequence(0)],
  ):
    assert not ended
    np.testing.assert_array_equal(step.frame[0], frame)
    frame, reward, terminated, truncated, _ = stock.step(step.action[0])
    np.testing.assert_array_equal(step.next_frame[0], frame)
    assert step.reward[0] == np.float32(reward)
    assert step.terminated[0] == terminated
    assert step.truncated[0] == truncated
    ended = terminated or truncated
  assert ended
  stock.close()
  return step


def random_actions(seed, count):
  low, high = rlds_steps.ACTION_LOW, rlds_steps.ACTION_HIGH
  return np.random.default_rng(seed).uniform(low, high, (count, 3))


def test_while_the_view_zooms_in_and_after():
  drive_both(0, random_actions(0, 90))


def test_until_the_time_is_up():
  assert drive_both(1, random_actions(1, 7)).truncated[0]


def test_over_the_grass_and_out_of_the_field():
  last = drive_both(2, [(0, 0.4, 0)] * 400)
  assert last.terminated[0] and last.reward[0] == -100
  outside = last.next_frame[0, :40]
  assert (outside == 0).all(-1).any()  # Outside the field everything is black.


def test_wherever_the_car_is_and_wherever_it_looks():
  stock, ours = car_racing.CarRacing(), culled_car_racing.CulledCarRacing()
  for (expected, *expected_others), (frame, *others) in drive_from_poses(
    stock, ours
  ):
    np.testing.assert_array_equal(frame, expected)
    assert others == expected_others
