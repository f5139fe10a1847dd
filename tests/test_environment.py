import gc
import weakref

from carracing_rollouts import environment
import numpy as np
import pytest

on_both = pytest.mark.parametrize(
  'environments_class',
  [environment.GymnasiumEnvironments, environment.SketchedEnvironments],
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
  def drive(seeds):
    environments = environments_class(seeds, max_steps=10)
    frames = [environments.reset()]
    rng = np.random.default_rng(0)
    for action in rng.uniform(0, 1, (10, 3)).astype(np.float32):
      frames.append(environments.step(np.stack([action] * len(seeds))).frame)
    environments.close()
    return np.stack(frames, axis=1)  # [B, 11, 96, 96, 3]

  first = drive([3, 4])

  np.testing.assert_array_equal(drive([4, 3]), first[::-1])
  np.testing.assert_array_equal(drive([3]), first[:1])
  assert (first[0] != first[1]).any()


@on_both
def test_closed_environments_leave_nothing_behind(environments_class):
  environments = environments_class([0], max_steps=3)
  environments.reset()
  environments.step(np.zeros((1, 3), np.float32))
  game = environments._environments[0].unwrapped
  tile, game = weakref.ref(game.road[0].userData), weakref.ref(game)
  environments.close()
  del environments
  gc.collect()
  assert game() is None
  assert tile() is None


def test_truncates_after_max_steps():
  environments = environment.GymnasiumEnvironments([0], max_steps=3)
  environments.reset()
  truncated = [
    environments.step(np.zeros((1, 3), np.float32)).truncated[0]
    for _ in range(3)
  ]
  assert truncated == [False, False, True]
