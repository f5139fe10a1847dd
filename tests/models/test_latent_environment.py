"""The game as V and M see it, driven beside the agent."""

import warnings

from carracing_rollouts import environment
import gymnasium
from gymnasium import error
from gymnasium.utils import env_checker
from models import agent
from models import dream_environment
from models import latent_environment
from models import weights
import numpy as np
import pytest

NAME = f'models.latent_environment:{latent_environment.ID}'


def test_observations_are_what_the_agent_acts_on(agent_folder):
  parts = {
    'vae': agent_folder / 'vae',
    'mdn_rnn': agent_folder / 'mdn_rnn',
  }
  env = gymnasium.make(NAME, **parts)
  dream = dream_environment.CarRacingDream(**parts)
  assert env.observation_space == dream.observation_space
  assert env.action_space == dream.action_space
  assert env.spec.max_episode_steps == 1000
  driver = agent.load(agent_folder)
  linear = weights.load(agent_folder / 'controller', 'controller')
  c, variables = linear.model, linear.variables
  game = gymnasium.make('CarRacing-v3')
  frame, _ = game.reset(seed=3)
  observation, _ = env.reset(seed=3)
  carry = driver.initial_carry([None])
  for _ in range(4):
    action, carry = driver(environment.resize(frame[None]), carry)
    found = c.apply(variables, observation[None, :32], observation[None, 32:])
    np.testing.assert_allclose(found, action, atol=1e-4)
    frame, expected, *_ = game.step(action[0])
    observation, reward, *_ = env.step(action[0])
    assert reward == expected


def test_gymnasium_finds_nothing_to_complain_about():
  env = gymnasium.make(NAME)
  with pytest.raises(error.ResetNeeded):
    env.unwrapped.step(np.zeros(3))
  with warnings.catch_warnings():
    warnings.simplefilter('error', UserWarning)
    env_checker.check_env(env.unwrapped, skip_render_check=True)
