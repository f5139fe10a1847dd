import shutil
import subprocess
import sys
import warnings

import cv2
import gymnasium
from gymnasium import error
from gymnasium.utils import env_checker
import jax
from models import agent
from models import dream_environment
from models import start_states
from models import weights
from models import world_model
import numpy as np
import pygame
import pytest

NAME = f'models.dream_environment:{dream_environment.ID}'
ACTION = np.float32([0.2, 0.5, 0])


@pytest.mark.parametrize('observation', ['latent', 'pixels'])
def test_gymnasium_finds_nothing_to_complain_about(observation):
  with warnings.catch_warnings():
    warnings.simplefilter('error', UserWarning)
    env = gymnasium.make(NAME, observation=observation, render_mode='rgb_array')
    env_checker.check_env(env.unwrapped)


def test_a_step_is_what_the_world_model_imagines():
  env = gymnasium.make(NAME, temperature=0.01, render_mode='rgb_array')
  observation, _ = env.reset(seed=5)
  model = agent.load().model
  starts = start_states.load(agent.PRETRAINED / 'mdn_rnn')
  [row] = np.nonzero((starts.hidden == observation[32:]).all(1))[0]
  state = world_model.State(
    observation[None, :32], (starts.cell[[row]], starts.hidden[[row]])
  )
  imagine = jax.jit(world_model.imagine)
  for _ in range(3):
    observation, reward, terminated, truncated, _ = env.step(ACTION)
    # So certain that chance hardly matters.
    state, expected, _ = imagine(
      model, state, ACTION[None], jax.random.key(0), 0
    )
    assert np.abs(observation[:32] - state.z[0]).mean() < 0.15
    np.testing.assert_allclose(observation[32:], state.carry[1][0], atol=0.1)
    assert abs(reward - expected[0]) < 0.3
    assert not terminated and not truncated
    state = world_model.State(observation[None, :32], state.carry)
  decode = jax.jit(world_model.decode)
  [frame] = np.asarray(decode(model, observation[None, :32]))
  shown = cv2.resize(frame, (512, 512))
  assert np.abs(env.render() / 255 - shown).max() < 0.01


def test_by_default_z_is_a_mean_as_in_the_game():
  model = agent.load().model
  starts = start_states.load(agent.PRETRAINED / 'mdn_rnn')
  env = gymnasium.make(NAME)
  first, _ = env.reset(seed=5)
  [row] = np.nonzero((starts.hidden == first[32:]).all(1))[0]
  np.testing.assert_array_equal(first[:32], starts.mean[row])
  observation, *_ = env.step(ACTION)
  state = world_model.State(
    first[None, :32], (starts.cell[[row]], starts.hidden[[row]])
  )
  prediction, _ = jax.jit(world_model.predict)(model, state, ACTION[None])
  means = np.asarray(prediction.mixture.mean)[0]
  assert np.abs(means - observation[:32]).max(1).min() < 1e-3
  noisy = gymnasium.make(NAME, noise=1.0)
  sample, _ = noisy.reset(seed=5)
  deviation = np.exp(starts.logvar[row] / 2)
  standard = (sample[:32] - starts.mean[row]) / deviation
  assert 0.5 < standard.std() < 1.5


def roll(env, seed, num_steps=8):
  observations = [env.reset(seed=seed)[0]]
  rewards = []
  for _ in range(num_steps):
    observation, reward, *_ = env.step(ACTION)
    observations.append(observation)
    rewards.append(reward)
  return np.array(observations), np.array(rewards)


def test_the_seed_decides():
  env = gymnasium.make(NAME)
  first = roll(env, 3)
  other = roll(env, 4)
  for x, again, different in zip(first, roll(env, 3), other):
    np.testing.assert_array_equal(x, again)
    assert (x != different).any()


def test_pixels_are_what_is_rendered():
  env = gymnasium.make(NAME, observation='pixels', render_mode='rgb_array')
  observations, _ = roll(env, 3)
  assert observations.shape == (9, 64, 64, 3)
  assert observations.dtype == np.uint8 and observations.std() > 10
  shown = env.render()
  assert shown.shape == (512, 512, 3)
  middle = shown.reshape(64, 8, 64, 8, 3)[:, 3:5, :, 3:5].mean((1, 3))
  np.testing.assert_allclose(middle, observations[-1], atol=12)
  assert env.spec.max_episode_steps == 1000


def test_a_vector_of_dreams_equals_single_ones():
  """The third step ends the episodes, the next one begins new ones."""
  envs = gymnasium.make_vec(
    NAME, num_envs=3, max_episode_steps=3, render_mode='rgb_array'
  )
  observations = [envs.reset(seed=7)[0]]
  outcomes = []
  for _ in range(6):
    observation, *outcome, _ = envs.step(np.tile(ACTION, (3, 1)))
    observations.append(observation)
    outcomes.append(outcome)
  rewards, _, truncated = map(np.array, zip(*outcomes))
  np.testing.assert_array_equal(truncated.all(1), [0, 0, 1, 0, 0, 0])
  assert (rewards[3] == 0).all() and (rewards[[0, 1, 2, 4]] != 0).all()
  for index in range(3):
    env = gymnasium.make(NAME, max_episode_steps=3)
    expected, expected_rewards = roll(env, 7 + index, 3)
    again, _ = env.reset()
    assert (again != expected[0]).any()
    steps, _, _, _, _ = env.step(ACTION)
    expected = np.stack([*expected, again, steps])
    found = np.array(observations)[:6, index]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(rewards[:3, index], expected_rewards, atol=1e-4)
  frames = envs.render()
  assert frames is not None and len(frames) == 3
  assert frames[0].shape == (64, 64, 3)
  # Each dream may have a seed of its own.
  [first, second, third] = envs.reset(seed=[9, 7, 9])[0]
  np.testing.assert_array_equal(first, third)
  np.testing.assert_allclose(second, observations[0][0], atol=1e-6)


def test_stable_baselines3_steps_them_in_one_batch():
  """They are those of the vector, without its step after the end."""
  stable_baselines3 = pytest.importorskip('stable_baselines3')
  from models import dream_vec_env
  from stable_baselines3.common import logger

  envs = gymnasium.make_vec(NAME, num_envs=3, max_episode_steps=3)
  dreams = dream_vec_env.DreamVecEnv(3, max_episode_steps=3)
  dreams.seed(7)
  np.testing.assert_array_equal(dreams.reset(), envs.reset(seed=7)[0])
  actions = np.tile(ACTION, (3, 1))
  for step in range(1, 7):
    expected, reward, _, truncated, _ = envs.step(actions)
    found, rewards, done, infos = dreams.step(actions)
    np.testing.assert_array_equal(rewards, reward)
    np.testing.assert_array_equal(done, truncated)
    assert done.all() == (step % 3 == 0)
    if done.all():
      np.testing.assert_array_equal(
        infos[1]['terminal_observation'], expected[1]
      )
      assert infos[1]['TimeLimit.truncated']
      expected, *_ = envs.step(actions)  # Starts the next episodes.
    np.testing.assert_array_equal(found, expected)
  model = stable_baselines3.PPO('MlpPolicy', dreams, n_steps=8, batch_size=12)
  model.set_logger(logger.Logger(None, []))  # Its own makes a folder.
  model.learn(48)
  assert model.num_timesteps == 48


def test_dreams_that_go_on_are_left_alone():
  """Only the dream that has ended starts anew."""
  envs = dream_environment.CarRacingDreams(3, max_episode_steps=4)
  envs.reset(seed=7)
  alone = dream_environment.CarRacingDream()
  expected, _ = roll(alone, 9, 4)
  envs._num_steps[0] = 1  # It began a step before the others.
  actions = np.tile(ACTION, (3, 1))
  ends, found = [], []
  for _ in range(4):
    observation, _, _, truncated, _ = envs.step(actions)
    ends.append(truncated.tolist())
    found.append(observation[2])
  assert ends[2] == [True, False, False]
  assert ends[3] == [False, True, True]
  np.testing.assert_allclose(found, expected[1:], atol=1e-4)


def altered(folder, source, change):
  """Copies M with changed parameters."""
  loaded = weights.load(source, 'mdn_rnn')
  weights.save(
    folder,
    'mdn_rnn',
    weights.describe(source).config,
    change(loaded.variables['params']),
    loaded.training,
    loaded.start_states,
  )
  return folder


def test_an_episode_ends_when_m_finds_that_likelier_than_not(world, tmp_path):
  def certain(params):
    bias = params['outcomes']['bias'].copy()
    bias[-1] = 50
    outcomes = {**params['outcomes'], 'bias': bias}
    return {**params, 'outcomes': outcomes}

  mdn_rnn = altered(tmp_path / 'm', world.mdn_rnn, certain)
  env = gymnasium.make(NAME, vae=world.vae, mdn_rnn=mdn_rnn)
  env.reset(seed=0)
  _, _, terminated, truncated, _ = env.step(ACTION)
  assert terminated is True and truncated is False


def test_a_window_shows_the_dream():
  env = gymnasium.make(NAME, render_mode='human')
  env.reset(seed=1)
  before = pygame.surfarray.array3d(pygame.display.get_surface())
  for _ in range(5):
    env.step(ACTION)
  after = pygame.surfarray.array3d(pygame.display.get_surface())
  assert before.shape == (512, 512, 3) and before.std() > 10
  assert (before != after).any()
  env.close()
  assert not pygame.display.get_init()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'temperature': 0}, 'temperature is 0, not a number from 1e-06 to 100'),
    ({'temperature': 101}, 'temperature is 101, not a number from'),
    ({'temperature': float('nan')}, 'temperature is nan, not a number from'),
    ({'temperature': '1'}, "temperature is '1', not a number from"),
    ({'noise': -1}, 'noise is -1, not a number from 0 to 100'),
    ({'noise': float('nan')}, 'noise is nan, not a number from 0 to 100'),
    ({'observation': 'state'}, "observation is 'state', not one of"),
    ({'render_mode': 'ansi'}, "render_mode is 'ansi', not one of"),
    ({'vae': '/missing'}, 'there are no exported weights of a vae in /missing'),
  ],
)
@pytest.mark.parametrize('make', [gymnasium.make, gymnasium.make_vec])
def test_bad_arguments(make, arguments, message):
  errors = (error.Error, weights.WeightsError)
  with warnings.catch_warnings():
    # Gymnasium warns of unknown render modes before it makes an environment.
    warnings.simplefilter('ignore', UserWarning)
    with pytest.raises(errors, match=message) as raised:
      make(NAME, **arguments)
  assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'num_envs': 0}, 'num_envs is 0, not an integer from 1 to 65536'),
    ({'num_envs': 2.5}, 'num_envs is 2.5, not an integer'),
    ({'num_envs': 10**9}, 'num_envs is 1000000000, not an integer'),
    ({'max_episode_steps': 0}, 'max_episode_steps is 0, not an integer from 1'),
    ({'max_episode_steps': float('nan')}, 'max_episode_steps is nan, not an'),
  ],
)
def test_bad_arguments_of_many_dreams(arguments, message):
  with pytest.raises(error.Error, match=message):
    dream_environment.CarRacingDreams(**arguments)


@pytest.mark.parametrize('arguments', [{'vae': None}, {'mdn_rnn': 3}])
@pytest.mark.parametrize('make', [gymnasium.make, gymnasium.make_vec])
def test_folders_are_paths(make, arguments):
  with pytest.raises(TypeError, match='PathLike object, not (NoneType|int)'):
    make(NAME, **arguments)


def test_weights_that_do_not_belong_together(world):
  with pytest.raises(weights.WeightsError, match='of another VAE'):
    gymnasium.make(NAME, vae=world.vae)


def test_m_without_what_dreams_need(world, tmp_path):
  shutil.copytree(world.mdn_rnn, tmp_path / 'm')
  m = weights.load(world.mdn_rnn, 'mdn_rnn')
  config = weights.describe(world.mdn_rnn).config
  params = dict(m.variables['params'])
  weights.save(tmp_path / 'm', 'mdn_rnn', config, params, m.training)
  with pytest.raises(weights.WeightsError, match='has no start_states'):
    gymnasium.make(NAME, vae=world.vae, mdn_rnn=tmp_path / 'm')
  del params['outcomes']
  config = {**config, 'predict_outcomes': False}
  weights.save(tmp_path / 'm', 'mdn_rnn', config, params, m.training)
  with pytest.raises(weights.WeightsError, match='predicts no rewards'):
    gymnasium.make(NAME, vae=world.vae, mdn_rnn=tmp_path / 'm')


@pytest.mark.parametrize(
  ('action', 'message'),
  [
    (np.zeros(2), r'numbers \[1, 3\], not \[array'),
    (0.5, r'numbers \[1, 3\], not \[0.5\]'),
    ('gas', r"numbers \[1, 3\], not \['gas'\]"),
    ([[0, 0, 0], [0]], r'numbers \[1, 3\], not \[\[\['),
    ([0, np.nan, 0], 'finite .* nan'),
    ([0, np.inf, 0], 'finite .* inf'),
  ],
)
def test_bad_actions(action, message):
  env = gymnasium.make(NAME).unwrapped
  env.reset(seed=0)
  with pytest.raises(error.InvalidAction, match=message) as raised:
    env.step(action)
  assert '\n' not in str(raised.value)
  # The dream goes on as if nothing had happened.
  after = env.step(ACTION)[0]
  env.reset(seed=0)
  np.testing.assert_array_equal(env.step(ACTION)[0], after)


def test_bad_calls_of_many_dreams():
  envs = gymnasium.make_vec(NAME, num_envs=2)
  with pytest.raises(error.ResetNeeded):
    envs.step(np.zeros((2, 3)))
  with pytest.raises(error.Error, match='3 seeds are for 2 dreams'):
    envs.reset(seed=[1, 2, 3])
  envs.reset(seed=1)
  with pytest.raises(error.InvalidAction, match=r'numbers \[2, 3\], not'):
    envs.step(np.zeros((3, 3)))
  envs.reset(seed=np.array([1, 2]))
  vector = gymnasium.make_vec(NAME, num_envs=np.int64(2), max_episode_steps=1)
  vector.reset(seed=np.int64(3))
  assert vector.step(np.zeros((2, 3)))[3].all()


@pytest.mark.parametrize('wrapped', [True, False])
def test_reset_comes_before_step(wrapped):
  env = gymnasium.make(NAME)
  with pytest.raises(error.ResetNeeded):
    (env if wrapped else env.unwrapped).step(ACTION)


def test_a_forked_process_names_spawn():
  code = f"""
import gymnasium
make = lambda: gymnasium.make('{NAME}')
gymnasium.vector.AsyncVectorEnv([make], context='fork').reset(seed=0)
"""
  # Until it ended, JAX in the fork waited for ever.
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, timeout=120
  )
  assert 'fork that made this process; start it with the method' in done.stderr
