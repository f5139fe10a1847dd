"""Sketches beside Gymnasium's own frames: the same game, almost the same view.

Differences are of observations, uint8 [64, 64, 3], in levels of 0..255.
"""

from typing import Any, cast

from carracing_data import rlds_steps
from carracing_rollouts import environment
from carracing_rollouts import policies
from carracing_rollouts import rollout
from carracing_rollouts import sketched_car_racing
from conftest import drive_from_poses
import gymnasium
from gymnasium.envs.box2d import car_racing
import numpy as np

ZOOMING_STEPS = 50


def drive_both(seed, choose_action, max_steps=1000):
  """Drives to the end of the episode, both with the actions for the stock game.

  Args:
    seed: of the track.
    choose_action: stock game → steering, gas, brake.
    max_steps: transitions after which the episode is truncated.

  Returns:
    The observations [2, T+1, 64, 64, 3] and the last transition.
  """
  stock = gymnasium.make('CarRacing-v3', max_episode_steps=max_steps)
  ours = environment.SketchedEnvironments([seed], max_steps)
  frames = [[stock.reset(seed=seed)[0], ours.reset()[0]]]
  our_game, stock_game = game_of(ours), cast(Any, stock.unwrapped)
  while True:
    action = np.asarray(choose_action(stock_game), np.float32)
    frame, reward, terminated, truncated, _ = stock.step(action)
    transition = ours.step(np.array([0]), action[None])
    frames.append([frame, transition.frame[0]])
    assert transition.reward[0] == np.float32(reward)
    assert our_game.reward == stock_game.reward
    assert transition.terminated[0] == terminated
    assert transition.truncated[0] == truncated
    assert state(our_game) == state(stock_game)
    if terminated or truncated:
      break
  ours.close()
  stock.close()
  return observations(frames), transition


def game_of(environments) -> Any:
  return environments._environments[0].unwrapped


def state(game):
  """Returns all that moves, as exact numbers."""
  bodies = game.car.hull, *game.car.wheels
  wheels = [(w.omega, w.phase, w.joint.angle) for w in game.car.wheels]
  return wheels, [
    (tuple(b.position), b.angle, tuple(b.linearVelocity), b.angularVelocity)
    for b in bodies
  ]


def observations(frames):
  return np.stack([environment.resize(np.stack(f)) for f in zip(*frames)])


def assert_close(observation, *, mean, worst_frame, worst_pixel):
  stock, ours = observation.astype(int)
  difference = abs(ours - stock)
  assert difference.mean() < mean
  assert difference.mean((1, 2, 3)).max() < worst_frame
  assert difference.max() < worst_pixel


def straight_ahead(game):
  del game
  return 0, 0.4, 0


def along_the_road(game):
  track = np.array(game.track)[:, 2:]
  offsets = track - game.car.hull.position
  nearest = np.argmin((offsets**2).sum(1))
  x, y = offsets[(nearest + 5) % len(track)]
  turn = np.arctan2(-x, y) - game.car.hull.angle
  turn = (turn + np.pi) % (2 * np.pi) - np.pi
  speed = np.hypot(*game.car.hull.linearVelocity)
  too_fast = speed > 40 - 50 * abs(turn)
  return np.clip(-1.5 * turn, -1, 1), 0.4 * (not too_fast), 0.1 * too_fast


# Below, the bounds are about 1.3 times what was measured.


def test_over_the_grass_and_out_of_the_field():
  observation, last = drive_both(2, straight_ahead)
  assert last.terminated[0] and last.reward[0] == -100
  assert (observation[1, -1, :20] == 0).all(-1).any()  # Beyond, all is black.
  # 0.09, 0.45 and 51 were measured.
  assert_close(observation, mean=0.12, worst_frame=0.6, worst_pixel=66)


def test_along_the_road():
  visited = 0

  def drive(game):
    nonlocal visited
    visited = game.tile_visited_count
    return along_the_road(game)

  observation, last = drive_both(0, drive, max_steps=200)
  assert last.truncated[0] and visited > 30
  on_the_road = observation[:, ZOOMING_STEPS:]
  # 0.11, 0.17 and 34 were measured.
  assert_close(on_the_road, mean=0.15, worst_frame=0.22, worst_pixel=45)
  # A policy sees the same error of the car in every frame, and errs in every
  # frame. 9.9 was measured at the worst of its pixels.
  stock, ours = on_the_road[:, :, 49:61, 28:36].astype(int)
  assert abs((ours - stock).mean(0)).max() < 13


def test_while_the_view_zooms_in():
  observation, _ = drive_both(1, straight_ahead, max_steps=ZOOMING_STEPS)
  # 0.17, 0.37 and 39 were measured.
  assert_close(observation, mean=0.22, worst_frame=0.5, worst_pixel=51)


def test_with_any_action():
  rng = np.random.default_rng(4)

  def draw(game):
    del game
    return rng.uniform(rlds_steps.ACTION_LOW, rlds_steps.ACTION_HIGH)

  assert drive_both(4, draw, max_steps=120)[1].truncated[0]


def test_visited_tiles_change_their_colour():
  stand = np.array([0]), np.zeros((1, 3), np.float32)
  environments = environment.SketchedEnvironments([0], 100)
  environments.reset()
  for _ in range(ZOOMING_STEPS):
    environments.step(*stand)

  def shows_lightest_grey():
    return (environments.step(*stand).frame[0] == 105).all(-1).any()

  # The car stands on some tiles; those ahead of it have other greys.
  assert shows_lightest_grey()
  game = game_of(environments)
  for tile in game.road:
    tile.color[:] = game.road_color  # As Gymnasium does at a contact.
  assert not shows_lightest_grey()
  environments.close()


def test_wherever_the_car_is_and_wherever_it_looks():
  stock = car_racing.CarRacing()
  ours = sketched_car_racing.SketchedCarRacing()
  frames = []
  for (frame, *expected), (our_frame, *others) in drive_from_poses(stock, ours):
    assert others == expected
    frames.append([frame, our_frame])
  # 0.13, 0.34 and 48 were measured, most of it at the edge of the field.
  assert_close(
    observations(frames), mean=0.17, worst_frame=0.45, worst_pixel=62
  )


def test_episodes_do_not_depend_on_their_batch():
  def roll(tracks):
    return rollout.episodes(
      environment.SketchedEnvironments(tracks, 60),
      policies.RandomPolicy(),
      [np.random.SeedSequence(track) for track in tracks],
    )

  together = roll([4, 5, 6])
  for episode, track in zip(together, [4, 5, 6]):
    [alone] = roll([track])
    np.testing.assert_array_equal(episode.observation, alone.observation)
    np.testing.assert_array_equal(episode.action, alone.action)
    np.testing.assert_array_equal(episode.reward, alone.reward)
