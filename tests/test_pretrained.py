"""The agent that comes with this project."""

import os
import subprocess
import sys

from carracing_rollouts import environment
from carracing_rollouts import tracks
from conftest import PROJECT
from models import agent
from models import weights
import pytest
import safetensors
from tools.driving import jobs

LEAST = 800


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
