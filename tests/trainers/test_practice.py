"""Cars practise on the simulator's own games, whoever steps them."""

import contextlib

from carracing_rollouts import tracks
import gymnasium
from gymnasium.envs.box2d import car_racing
import numpy as np
import pytest
from trainers.control import fleet as fleet_lib
from trainers.control import practice
from trainers.control import privileged_observations

RULES = practice.Rules(
  'sketched', stuck_steps=30, start_share=0.3, start_offset=3.0, start_angle=0.2
)


@pytest.fixture
def car():
  car = practice.Car(RULES)
  yield car
  car.close()


def some_actions(count):
  rng = np.random.default_rng(0)
  steering = rng.uniform(-0.3, 0.3, count)
  gas, brake = rng.uniform(0, 0.5, count), rng.uniform(0, 0.1, count)
  return np.stack([steering, gas, brake], -1).astype(np.float32)


def test_episodes_agree_with_the_stock_game_also_after_a_respawn(car):
  actions = some_actions(150)
  stock = gymnasium.make('CarRacing-v3')
  stock.reset(seed=5)
  expected = [stock.step(action)[1] for action in actions]
  stock.close()
  assert max(expected) > 0  # Tiles were touched.

  car.drive(5)
  driven = [car.step(action).reward for action in actions]
  assert driven == expected
  first = car.drive(5)
  np.testing.assert_array_equal(car.respawn(0), first)
  respawned = [car.step(action).reward for action in actions]
  np.testing.assert_allclose(respawned, expected, rtol=0, atol=1e-9)


def test_a_car_that_is_stuck_begins_again_elsewhere_on_the_track(car):
  car.practise(np.random.default_rng(2))
  brake = np.array([0, 0, 1], np.float32)
  track = car._game.track
  starts = set()
  for episode in range(4):
    results = [car.step(brake) for _ in range(RULES.stuck_steps)]
    outcomes = [result.outcome for result in results]
    running = [practice.Outcome.RUNNING] * (RULES.stuck_steps - 1)
    assert outcomes == [*running, practice.Outcome.FAILED], episode
    assert car._game.track is track
    starts.add(tuple(car._game.car.hull.position))
  assert len(starts) > 1


def test_a_failed_episode_is_tried_again_shortly_before_the_place():
  rules = RULES._replace(retry_share=1.0, start_offset=0.0, start_angle=0.0)
  brake = np.array([0, 0, 1], np.float32)
  with contextlib.closing(practice.Car(rules)) as car:
    car.practise(np.random.default_rng(0))
    places = [40]
    car.respawn(*places)
    for _ in range(3):  # Beyond the start of the track.
      for _ in range(RULES.stuck_steps):
        result = car.step(brake)
      assert result.outcome == practice.Outcome.FAILED
      places.append(car._observer.passed)
    distances = -np.diff(places) % len(car._game.track)
    assert np.all((15 <= distances) & (distances < 50)), places
    assert places != sorted(places, reverse=True)


def test_leaving_the_field_fails_without_its_own_reward(car):
  car.drive(1)
  car._game.car.hull.position = (car_racing.PLAYFIELD, 0)
  gas = np.array([0, 1, 0], np.float32)
  for _ in range(100):
    result = car.step(gas)
    if result.outcome != practice.Outcome.RUNNING:
      break
    car._game.car.hull.position += (1, 0)
  assert result.outcome == practice.Outcome.FAILED
  assert result.reward == -100
  assert result.shaped_reward == pytest.approx(-0.1)


def test_a_completed_lap_has_its_own_outcome(car):
  car.drive(1)
  car._game.tile_visited_count = len(car._game.track)
  result = car.step(np.zeros(3, np.float32))
  assert result.outcome == practice.Outcome.COMPLETED
  assert result.episode_steps == 1


def test_penalties_for_grass_and_speed():
  rules = RULES._replace(grass_penalty=2.0, speed_penalty=1.2)
  car = practice.Car(rules)
  car.drive(3)
  still = np.zeros(3, np.float32)
  result = car.step(still)
  assert result.shaped_reward == pytest.approx(result.reward, abs=1e-3)
  car.respawn(40, offset=30.0)
  result = car.step(still)
  assert result.shaped_reward == pytest.approx(-0.1 - 2, abs=1e-3)
  car.respawn(40)
  forward = car._game.car.hull.GetWorldVector((0, 1))
  for body in car._game.car.hull, *car._game.car.wheels:
    body.linearVelocity = 50 * forward
  result = car.step(still)
  speed = car._game.car.hull.linearVelocity.length
  assert 45 < speed < 51
  assert result.shaped_reward == pytest.approx(
    result.reward - 1.2 * (speed / 100) ** 2
  )
  car.close()


def test_privileged_numbers_at_a_known_pose(car):
  car.drive(7)
  game = car._game
  direction, x, y = game.track[20][1:]
  right = np.array([np.cos(direction), np.sin(direction)])
  hull = game.car.hull
  hull.position = tuple((x, y) + 2 * right)
  hull.angle = direction + 0.1
  along = np.array([-np.sin(hull.angle), np.cos(hull.angle)])
  across = np.array([np.cos(hull.angle), np.sin(hull.angle)])
  hull.linearVelocity = tuple(30 * along + 5 * across)
  hull.angularVelocity = 1.0
  game.road[21].road_visited = True
  game.tile_visited_count = 3
  game.t = 0.25

  observer = privileged_observations.Observer(game)
  numbers = observer.describe(steps_without_tile=25)
  assert numbers.shape == (privileged_observations.SIZE,) == (51,)
  assert numbers[0] == pytest.approx(1)  # Speed along, in 30.
  assert numbers[1] == pytest.approx(0.5)  # Across, in 10.
  assert numbers[2] == pytest.approx(0.5)
  assert numbers[13] == pytest.approx(2 / car_racing.TRACK_WIDTH, abs=1e-5)
  assert numbers[14] == pytest.approx(np.sin(0.1))
  assert numbers[15] == pytest.approx(np.cos(0.1))
  ahead = np.array(game.track[20 + 2][2:]) - tuple(hull.position)
  assert numbers[16] == pytest.approx(across @ ahead / 20)
  assert numbers[28] == pytest.approx(along @ ahead / 40)
  visited = [tile.road_visited for tile in game.road[19:27]]
  assert numbers[40:48].tolist() == visited
  assert visited[2]
  assert numbers[48] == 0.5
  assert numbers[49] == 0.25
  assert numbers[50] == pytest.approx(3 / len(game.track))


def test_tiles_left_behind_are_missed_once(car):
  car.drive(7)
  game = car._game
  observer = privileged_observations.Observer(game)
  missed = []
  for tile in 3, 6, 6, 4, 7, 20:
    game.car.hull.position = tuple(game.track[tile][2:])
    game.road[tile].road_visited = True
    missed.append(observer.advance())
  # Passed: 1, which the front wheels touch at the start; 2 to 4; no other; no
  # other; 5; 6 to 18, of which at most 3 count.
  assert missed == [0, 2, 0, 0, 1, 3]


@pytest.mark.parametrize('mode', ['practise', 'drive'])
def test_the_number_of_workers_changes_nothing(mode):
  seen = []
  for num_workers in 1, 2:
    fleet = fleet_lib.Fleet(3, RULES, num_workers)
    if mode == 'practise':
      fleet.practise([1, 2])
    else:
      fleet.drive(tracks.DEVELOPMENT[:3])
    rows = []
    for action in some_actions(60):
      fleet.views.action[:] = action
      fleet.step()
      rows.append([view.copy() for view in fleet.views])
    fleet.close()
    seen.append(rows)
  for one, two in zip(*seen, strict=True):
    for name, x, y in zip(fleet_lib.Views._fields, one, two):
      np.testing.assert_array_equal(x, y, err_msg=name)


def test_a_finished_car_waits():
  fleet = fleet_lib.Fleet(2, RULES, 1)
  fleet.drive(tracks.DEVELOPMENT[:2], stuck_steps=20)
  fleet.views.action[:] = [[0, 0.5, 0], [0, 0, 1]]
  for _ in range(30):
    fleet.step()
  assert fleet.views.episode_steps.tolist() == [30, 20]
  assert fleet.views.outcome.tolist() == [
    practice.Outcome.RUNNING,
    practice.Outcome.FAILED,
  ]
  fleet.close()
