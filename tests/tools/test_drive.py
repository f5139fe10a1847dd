from carracing_rollouts import environment
from carracing_rollouts import tracks
import cv2
import imageio.v3 as imageio
import jax
from models import agent
import numpy as np
import pytest
from scipy import special
from tools.drive import filming
from tools.driving import jobs

STEPS = 12


@pytest.fixture(scope='module')
def driver(agent_folder):
  driver = agent.load(agent_folder)
  # A few steps of training hardly teach M that actions matter.
  model = driver.model
  variables = jax.tree.map(lambda x: 4 * x, model.m_variables)
  return driver.replace(model=model.replace(m_variables=variables))


@pytest.fixture(scope='module')
def film(driver):
  return filming.drive(driver, tracks.DEVELOPMENT[1], STEPS)


@pytest.fixture(scope='module')
def panels(driver, film):
  frames, driven = film
  return filming.show(driver.model, frames, driven.action)


def to_uint8(image):
  return np.round(np.clip(image, 0, 1) * 255).astype(int)


def test_drive_is_the_simulators(film):
  shown, driven = film
  environments = environment.Environments([tracks.DEVELOPMENT[1]], STEPS)
  frames, rewards = [environments.reset()], []
  for action in driven.action:
    transition = environments.step(np.array([0]), action[None])
    frames.append(transition.frame)
    rewards += [*transition.reward]
  environments.close()
  np.testing.assert_array_equal(shown, np.concatenate(frames))
  np.testing.assert_array_equal(driven.reward, rewards)
  np.testing.assert_allclose(driven.scores(), np.cumsum([0, *rewards]))
  assert transition.truncated and not driven.terminated


def test_panels_show_the_simulator_v_and_m(driver, film, panels):
  """Repeats with NumPy what C saw and what M expected, step by step."""
  model = driver.model
  frames, driven = film
  observation = environment.resize(frames)
  simulator, reconstruction, expectation = panels.values()
  assert len(expectation) == STEPS + 1
  # What lies in a corner of one panel lies in that of the others.
  for shown, seen in zip(simulator, observation, strict=True):
    small = cv2.resize(shown, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - seen).mean() < 2

  linear = driver.c_variables['params']['linear']
  carry = model.m.initial_carry(1)
  expected = None
  for t in range(STEPS + 1):
    z = model.v.apply(
      model.v_variables, observation[t : t + 1], method='encode'
    ).mean
    decoded = model.v.apply(model.v_variables, z, method='decode')
    assert np.abs(to_uint8(decoded[0]) - reconstruction[t]).max() <= 1
    if expected is None:
      np.testing.assert_array_equal(expectation[0], reconstruction[0])
    else:
      decoded = model.v.apply(model.v_variables, expected, method='decode')
      assert np.abs(to_uint8(decoded[0]) - expectation[t]).max() <= 1
    if t == STEPS:
      break

    x = np.concatenate([z[0], carry[1][0]]) @ linear['kernel'] + linear['bias']
    steering, gas, brake = np.tanh(x)
    np.testing.assert_allclose(
      driven.action[t], [steering, (gas + 1) / 2, max(brake, 0)], atol=1e-4
    )
    (mixture, *_), carry = model.m.apply(
      model.m_variables, z[:, None], driven.action[None, t : t + 1], carry
    )
    logits, mean, _ = (np.asarray(x)[0, 0] for x in mixture)
    expected = (special.softmax(logits, axis=0) * mean).sum(0)[None]


@pytest.mark.parametrize(
  ('terminated', 'last_reward', 'ending'),
  [
    (False, -0.1, 'lap not completed in time'),
    (True, -100, 'lap not completed: the car left the playing field'),
    (True, 3.1, 'lap completed'),
    (True, -0.1, 'lap completed'),
  ],
)
def test_ending_tells_a_lap_from_a_fall(terminated, last_reward, ending):
  reward = np.array([-0.1, last_reward], np.float32)
  action, imposed = np.zeros((2, 3), np.float32), np.zeros(2, bool)
  drive = jobs.Driven(action, imposed, reward, terminated)
  assert drive.ending() == ending
  first, _, last = filming.captions(drive)
  assert first == 'steering +0.00  gas 0.00  brake 0.00  step 0  score 0.0'
  assert last.startswith(f'{ending}  step 2  score ')


def test_video_shows_every_step(film, panels, tmp_path):
  _, driven = film
  strip, video = filming.save(driven, panels, 'A drive', tmp_path)
  frames = imageio.imread(video, plugin='pyav')
  assert frames.shape == (STEPS + 1, 448, 3 * 384 + 2 * 8, 3)
  assert imageio.immeta(video, plugin='pyav')['fps'] == 50
  # Panels lie below their titles; an MP4 blurs edges, so compares means.
  for i, panel in enumerate(panels.values()):
    shown = frames[:, 32:416, i * 392 : i * 392 + 384]
    np.testing.assert_allclose(
      shown.mean((1, 2)), panel.mean((1, 2)), atol=4, err_msg=str(i)
    )
  assert imageio.imread(strip).shape[1] > 1000
  assert sorted(tmp_path.iterdir()) == [video, strip]


def test_the_film_is_of_the_drive_that_is_scored(driver, film):
  frames, driven = film
  again, _ = filming.drive(driver, tracks.DEVELOPMENT[1], STEPS)
  np.testing.assert_array_equal(frames, again)
  games = environment.Environments(tracks.DEVELOPMENT[:2], STEPS)
  seeds = [jobs.policy_seed(track) for track in tracks.DEVELOPMENT[:2]]
  [_, scored] = jobs.drive(games, driver, seeds)
  for x, y in zip(driven, scored, strict=True):
    np.testing.assert_array_equal(x, y)
