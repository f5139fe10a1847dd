"""Common properties of the simulators; the dataset card lists differences."""

from carracing_rollouts import environment
from carracing_rollouts import policies
from carracing_rollouts import rollout
import numpy as np
import pytest

pytest.importorskip('envpool', reason='an optional dependency')
SIMULATORS = ['envpool', 'gymnasium']
COAST = (0, 0, 0)
STRAIGHT_AHEAD = (0, 0.4, 0)
GRASS = (102, 204, 102)


def drive(simulator, action, max_steps=1000):
  """Returns the steps of an episode with a constant action."""
  return list(
    rollout.play(
      environment.SIMULATORS[simulator]([3], max_steps),
      policies.RecordedPolicy([np.tile(np.float32(action), (max_steps, 1))]),
      [np.random.SeedSequence(0)],
    )
  )


@pytest.mark.parametrize('simulator', SIMULATORS)
def test_frames_have_the_same_layout(simulator):
  played = drive(simulator, COAST, 60)
  assert len(played) == 60
  [frame], [observation] = played[-1].next_frame, played[-1].next_observation
  assert frame.shape == (96, 96, 3) and frame.dtype == np.uint8
  observation = observation.astype(int)
  assert (abs(observation[:4, :16] - GRASS) < 30).all()
  road = observation[40, 30:34]
  assert (road.max(-1) - road.min(-1) < 12).all()  # Grey.
  red, green, blue = observation[44:60, 30:34].reshape(-1, 3).T
  assert (red > green + 50).any() and (red > blue + 50).any()  # The car.
  assert (frame[85:, 90:] < 20).all()  # The dashboard.


def test_the_same_action_drives_the_same_way():
  ends = {}
  for simulator in SIMULATORS:
    played = drive(simulator, STRAIGHT_AHEAD)
    assert played[-1].terminated[0] and not played[-1].truncated[0]
    assert played[-1].reward[0] == -100
    ends[simulator] = len(played)
  # All tracks start alike, so both leave the playing field at the same step.
  assert abs(ends['envpool'] - ends['gymnasium']) <= 3


@pytest.mark.parametrize('simulator', SIMULATORS)
def test_steering_turns_the_view_the_same_way(simulator):
  def grey_columns(steering):
    last = drive(simulator, (steering, 0.15, 0), 70)[-1]
    rows = last.next_observation[0, :40].astype(int)
    grey = (rows.max(-1) - rows.min(-1) < 12) & (rows.max(-1) < 130)
    return np.flatnonzero(grey.any(0)).mean()

  # Steering to the left shows the road on the right.
  assert grey_columns(-0.1) > 32 > grey_columns(0.1)


@pytest.mark.parametrize('simulator', SIMULATORS)
def test_rewards_have_the_same_scale(simulator):
  rewards = np.array([step.reward[0] for step in drive(simulator, COAST, 20)])
  np.testing.assert_allclose(rewards[1:], -0.1, atol=1e-3)
  assert 2 < rewards[0] < 10  # The first tiles: 1000 / about 300 each.


@pytest.mark.parametrize('simulator', SIMULATORS)
def test_truncation_is_not_termination(simulator):
  played = drive(simulator, COAST, 7)
  assert len(played) == 7
  assert played[-1].truncated[0] and not played[-1].terminated[0]


def test_episodes_do_not_depend_on_their_batch():
  def roll(tracks):
    return rollout.episodes(
      environment.EnvPoolEnvironments(tracks, 60),
      policies.RandomPolicy(),
      [np.random.SeedSequence(track) for track in tracks],
    )

  together = roll([4, 5, 6])
  for episode, track in zip(together, [4, 5, 6]):
    [alone] = roll([track])
    np.testing.assert_array_equal(episode.observation, alone.observation)
    np.testing.assert_array_equal(episode.action, alone.action)
    np.testing.assert_array_equal(episode.reward, alone.reward)


def test_an_ended_episode_is_not_stepped():
  environments = environment.EnvPoolEnvironments([4, 5, 6], 400)
  lengths = np.zeros(3, int)
  played = rollout.play(
    environments,
    policies.StraightAheadPolicy(),
    [np.random.SeedSequence(0)] * 3,
  )
  after = 0  # Steps since the first episode ended.
  for step in played:
    lengths[step.ids] += 1
    after += len(step.ids) < 3
    if after == 5:
      break
  [ended] = set(range(3)) - set(step.ids.tolist())
  # EnvPool restarts an environment in the first step after its end. That step
  # is this one, so the ended environment was not stepped before.
  action = np.zeros((1, 3), np.float32)
  info = environments._environments.step(action, np.array([ended]))[-1]
  assert info['elapsed_step'] == 0
  played.close()
