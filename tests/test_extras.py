"""The core reads, drives and dreams; programs name the extra that they lack."""

import os
import re
import shutil
import subprocess
import sys

from conftest import PROJECT
import pytest

# Imports all but the binaries, whose flags would meet; prints who needs what.
_IMPORT_ALL = """
import importlib, pathlib
for room in ('datasets', 'models', 'tools', 'trainers'):
  root = pathlib.Path('datasets' if room == 'datasets' else '')
  for path in sorted(pathlib.Path(room).rglob('*.py')):
    if '\\nif __name__ ==' not in path.read_text():
      name = '.'.join(path.relative_to(root).with_suffix('').parts)
      try:
        importlib.import_module(name.removesuffix('.__init__'))
      except ModuleNotFoundError as error:
        print(name, error.name)
"""
_READ_DRIVE_AND_DREAM = """
import sys
from carracing_data import verification
from carracing_latents import loader as latents_loader
from carracing_rollouts import environment, loader
import gymnasium
from models import agent

data = dict(name='carracing_rollouts/kept', data_dir=sys.argv[2])
assert next(iter(loader.frames(**data, batch_size=2))).shape == (2, 64, 64, 3)
assert len(loader.episodes(**data)[0]) == 5
game = gymnasium.make('CarRacing-v3')
frame, _ = game.reset(seed=0)
driver = agent.load()
carry = driver.initial_carry([None])
for _ in range(3):
  action, carry = driver(environment.resize(frame[None]), carry)
  frame, *_ = game.step(action[0])
dream = gymnasium.make('models.dream_environment:CarRacingDream-v0')
dream.reset(seed=0)
dream.step(dream.action_space.sample())
assert not {'apache_beam', 'clu', 'tensorflow'} & {*sys.modules}
"""


def with_core_alone(*arguments, cwd=PROJECT):
  return subprocess.run(
    [sys.executable, PROJECT / 'tests' / 'core_alone.py', *arguments],
    capture_output=True,
    text=True,
    cwd=cwd,
  )


def test_reading_driving_and_dreaming_need_no_extra(version_1):
  done = with_core_alone('-c', _READ_DRIVE_AND_DREAM, version_1)
  assert done.returncode == 0, done.stderr


def test_only_trainers_exports_and_benchmarks_need_extras():
  done = with_core_alone('-c', _IMPORT_ALL)
  assert done.returncode == 0, done.stderr
  needs = dict(line.split() for line in done.stdout.splitlines())
  assert {'trainers.loop', 'tools.export.minari_datasets'} <= {*needs}
  for module in needs:
    assert module == 'models.dream_vec_env' or module.startswith(
      ('trainers.', 'tools.export.', 'tools.benchmark.')
    )


@pytest.mark.parametrize(
  ('program', 'extra'),
  [
    (['trainers.train_vae', '--workdir=run'], 'train'),
    (['trainers.train_controller', '--workdir=run'], 'train'),
    (['tools.demo'], 'build,train'),
    (['tools.export', '--format=croissant'], 'export'),
    (['tools.export', '--format=parquet'], 'export'),
  ],
)
def test_programs_name_the_extra_that_they_lack(program, extra, tmp_path):
  done = with_core_alone(*program, cwd=tmp_path)
  assert done.returncode == 1
  *_, line = done.stderr.splitlines()
  assert line.startswith('Error: this needs the extra'), done.stderr
  assert line.endswith(f" pip install -c constraints.txt -e '.[{extra}]'")
  assert 'Traceback' not in done.stderr
  assert not list(tmp_path.iterdir())


def test_make_installs_what_a_goal_lacks(tmp_path):
  for name in 'Makefile', 'constraints.txt', 'pyproject.toml':
    shutil.copy2(PROJECT / name, tmp_path)
  # Without what the make that runs the tests was given.
  environment = {x: y for x, y in os.environ.items() if 'MAKE' not in x}

  def installs(goal):
    done = subprocess.run(
      ['make', '--dry-run', goal],
      cwd=tmp_path,
      env={**environment, 'EXTRAS': 'dev'},
      stdout=subprocess.PIPE,
      text=True,
      check=True,
    )
    return re.findall("--editable '(.*)'", done.stdout)

  assert installs('drive') == ['.']
  stamps = tmp_path / '.venv'
  stamps.mkdir()
  (stamps / '.installed_core').touch()
  assert installs('drive') == []
  assert installs('demo') == ['.[build,train]']
  assert installs('test') == ['.[dev]']
