"""The agent that comes with this project."""

import os
import subprocess
import sys

from carracing_rollouts import environment
from carracing_rollouts import tracks
from conftest import PROJECT
import gymnasium
import jax
from models import agent
from models import weights
import numpy as np
import pytest
import safetensors
from tools.driving import jobs

LEAST = 800
DREAM = 'models.dream_environment:CarRacingDream-v0'


def dtypes(folder):
  with safetensors.safe_open(folder / weights.FILE, 'numpy') as file:
    return {file.get_slice(name).get_dtype() for name in file.keys()}


def test_its_card_names_its_weights():
  card = (agent.PRETRAINED / 'README.md').read_text()
  for part, sha256 in agent.digests(agent.PRETRAINED).items():
    assert sha256 in card, part
    training = weights.describe(agent.PRETRAINED / part).training
    if part != 'controller':
      assert training['rounded_from'] in card
      assert dtypes(agent.PRETRAINED / part) == {'F16'}
    for source in training['sources'].values():
      assert all(digest in card for digest in source['sha256'].values())
  files = agent.PRETRAINED.rglob(weights.FILE)
  assert sum(file.stat().st_size for file in files) <= 12e6


def test_a_damaged_one_is_restored_from_the_repository(tmp_path, monkeypatch):
  monkeypatch.setattr(agent, 'PRETRAINED', tmp_path)
  with pytest.raises(weights.WeightsError, match='git checkout -- '):
    agent.load(tmp_path)


def test_it_drives():
  seeds = tracks.DEVELOPMENT[:2]
  games = environment.Environments(seeds, environment.MAX_STEPS)
  driven = jobs.drive(games, agent.load(), [jobs.policy_seed(0)] * 2)
  returns = [x.scores()[-1] for x in driven]
  assert min(returns) > LEAST, returns


def test_tools_take_it_without_being_told(command, tmp_path):
  done = command(
    'tools.evaluate', '--episodes=1', f'--output_dir={tmp_path}/score'
  )
  assert done.status == 0, done.stderr
  assert 'over 1 track' in done.stdout
  # On the CPU, whatever JAX would take.
  done = subprocess.run(
    [sys.executable, '-m', 'tools.drive', f'--output_dir={tmp_path}/drive'],
    cwd=PROJECT,
    env={**os.environ, 'JAX_PLATFORMS': 'none_of_this_name'},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('Development track 0: return ')
  for name in 'drive.mp4', 'drive.png':
    assert (tmp_path / 'drive' / name).stat().st_size


def test_its_dreams_know_what_actions_do():
  driver = agent.load()
  controller = jax.jit(driver.c.apply)
  rng = np.random.default_rng(0)

  def drive(z, hidden):
    return controller(driver.c_variables, z, hidden)

  def nothing(z, hidden):
    return np.zeros((len(z), 3), np.float32)

  def full_gas(z, hidden):
    return nothing(z, hidden) + np.float32([0, 1, 0])

  def uniform(z, hidden):
    return rng.uniform([-1, 0, 0], 1, (len(z), 3))

  def dreamt(policy):
    envs = gymnasium.make_vec(DREAM, num_envs=16)
    seen, _ = envs.reset(seed=0)
    total = np.zeros(16)
    for _ in range(900):
      seen, reward, *_ = envs.step(np.asarray(policy(*np.split(seen, [32], 1))))
      total += reward
    return total.mean()

  most = dreamt(drive)
  assert most > 600
  assert max(map(dreamt, (nothing, full_gas, uniform))) < most / 3
