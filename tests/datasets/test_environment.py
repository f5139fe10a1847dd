import gc
import weakref

from carracing_rollouts import environment
from carracing_rollouts import policies
from carracing_rollouts import rollout
import numpy as np
import pytest

on_both = pytest.mark.parametrize(
  'environments_class',
  [environment.Environments, environment.SketchedEnvironments],
)


def test_resize_is_the_exact_area_mean():
  frame = np.random.default_rng(0).integers(
    0, 256, (2, 96, 96, 3), dtype=np.uint8
  )
  # In units of 1/16 row and 1/2 column, an output pixel is 21 × 3 units.
  units = frame[:, :84].astype(np.int64).repeat(16, 1).repeat(2, 2)
  sums = units.reshape(2, 64, 21, 64, 3, 3).sum((2, 4))

  resized = environment.resize(frame)

  np.testing.assert_array_equal(resized, (2 * sums + 63) // (2 * 63))
  assert resized.dtype == np.uint8


@on_both
def test_an_episode_depends_on_its_seed_and_actions_alone(environments_class):
  rng = np.random.default_rng(0)
  actions = rng.uniform(0, 1, (10, 3)).astype(np.float32)

  def drive(seeds):
    played = rollout.play(
      environments_class(seeds, max_steps=10),
      policies.RecordedPolicy([actions] * len(seeds)),
      [np.random.SeedSequence(0)] * len(seeds),
    )
    return np.stack([step.next_frame for step in played], axis=1)

  first = drive([3, 4])

  np.testing.assert_array_equal(drive([4, 3]), first[::-1])
  np.testing.assert_array_equal(drive([3]), first[:1])
  assert (first[0] != first[1]).any()


@on_both
def test_closed_environments_leave_nothing_behind(environments_class):
  environments = environments_class([0], max_steps=3)
  environments.reset()
  environments.step(np.array([0]), np.zeros((1, 3), np.float32))
  game = environments._environments[0].unwrapped
  tile, game = weakref.ref(game.road[0].userData), weakref.ref(game)
  environments.close()
  del environments
  gc.collect()
  assert game() is None
  assert tile() is None


@on_both
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_actions_that_are_not_finite_are_refused(environments_class, value):
  environments = environments_class([0], max_steps=3)
  environments.reset()
  with pytest.raises(ValueError, match='an action is not finite'):
    environments.step(np.array([0]), np.array([[0, value, 0]], np.float32))
  environments.close()


def test_truncates_after_max_steps():
  played = rollout.play(
    environment.Environments([0], max_steps=3),
    policies.RecordedPolicy([np.zeros((3, 3), np.float32)]),
    [np.random.SeedSequence(0)],
  )
  assert [step.truncated[0] for step in played] == [False, False, True]


@pytest.mark.parametrize(
  ('shape', 'dtype'),
  [
    ((96, 96, 3), np.uint8),
    ((1, 64, 64, 3), np.uint8),
    ((1, 96, 96, 3), np.float32),
  ],
)
def test_only_batches_of_frames_of_the_game_are_resized(shape, dtype):
  with pytest.raises(ValueError, match=r'not uint8\[B, 96, 96, 3\]'):
    environment.resize(np.zeros(shape, dtype))
