"""What the two simulators agree in; the dataset's card says in what not."""

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


def drive(simulator, action, steps, max_steps=1000):
  """Returns frames [T+1, 96, 96, 3] and transitions until the episode ends."""
  environments = environment.SIMULATORS[simulator]([3], max_steps)
  frames, transitions = [environments.reset()[0]], []
  for _ in range(steps):
    transitions.append(environments.step(np.float32([action])))
    frames.append(transitions[-1].frame[0])
    if transitions[-1].terminated[0] or transitions[-1].truncated[0]:
      break
  environments.close()
  return np.stack(frames), transitions


@pytest.mark.parametrize('simulator', SIMULATORS)
def test_frames_have_the_same_layout(simulator):
  frames, _ = drive(simulator, COAST, 60)
  assert frames.shape == (61, 96, 96, 3) and frames.dtype == np.uint8
  observation = environment.resize(frames[-1:])[0].astype(int)
  assert (abs(observation[:4, :16] - GRASS) < 30).all()
  road = observation[40, 30:34]
  assert (road.max(-1) - road.min(-1) < 12).all()  # Grey.
  red, green, blue = observation[44:60, 30:34].reshape(-1, 3).T
  assert (red > green + 50).any() and (red > blue + 50).any()  # The car.
  assert (frames[-1, 85:, 90:] < 20).all()  # The dashboard.


def test_the_same_action_drives_the_same_way():
  ends = {}
  for simulator in SIMULATORS:
    _, transitions = drive(simulator, STRAIGHT_AHEAD, 1000)
    assert transitions[-1].terminated[0] and not transitions[-1].truncated[0]
    assert transitions[-1].reward[0] == -100
    ends[simulator] = len(transitions)
  # All tracks start alike, so both leave the playing field at the same step.
  assert abs(ends['envpool'] - ends['gymnasium']) <= 3


@pytest.mark.parametrize('simulator', SIMULATORS)
def test_steering_turns_the_view_the_same_way(simulator):
  def grey_columns(steering):
    frames, _ = drive(simulator, (steering, 0.15, 0), 70)
    rows = environment.resize(frames[-1:])[0, :40].astype(int)
    grey = (rows.max(-1) - rows.min(-1) < 12) & (rows.max(-1) < 130)
    return np.flatnonzero(grey.any(0)).mean()

  # Who steers to the left sees the road on the right.
  assert grey_columns(-0.1) > 32 > grey_columns(0.1)


@pytest.mark.parametrize('simulator', SIMULATORS)
def test_rewards_have_the_same_scale(simulator):
  _, transitions = drive(simulator, COAST, 20)
  rewards = np.array([t.reward[0] for t in transitions])
  np.testing.assert_allclose(rewards[1:], -0.1, atol=1e-3)
  assert 2 < rewards[0] < 10  # The first tiles: 1000 / about 300 each.


@pytest.mark.parametrize('simulator', SIMULATORS)
def test_truncation_is_not_termination(simulator):
  _, transitions = drive(simulator, COAST, 100, max_steps=7)
  assert len(transitions) == 7
  assert transitions[-1].truncated[0] and not transitions[-1].terminated[0]


def test_episodes_do_not_depend_on_their_batch():
  def roll(tracks):
    return rollout.rollout(
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
