"""Where the code of a run comes from, told by real repositories."""

import os
import runpy
import shutil
import subprocess

import pytest
from trainers import run_folder


def git(folder, *arguments):
  return subprocess.run(
    ['git', '-c', 'user.name=a', '-c', 'user.email=a@b.c', *arguments],
    cwd=folder,
    check=True,
    capture_output=True,
    text=True,
  ).stdout.strip()


def commit(folder):
  """Makes a folder a repository with all its files; returns the commit."""
  git(folder, 'init', '-q')
  git(folder, 'add', '.')
  git(folder, 'commit', '-q', '--allow-empty', '-m', 'all')
  return git(folder, 'rev-parse', 'HEAD')


@pytest.fixture
def project(tmp_path):
  """A copy of the code in a folder of another repository."""
  project = tmp_path / 'thesis' / 'third_party'
  (project / 'trainers').mkdir(parents=True)
  shutil.copy(run_folder.__file__, project / 'trainers')
  commit(tmp_path / 'thesis')
  return project


def recorded(project):
  return runpy.run_path(str(project / 'trainers' / 'run_folder.py'))[
    '_git_revision'
  ]()


def test_commit_of_another_repository_is_not_recorded(
  project, tmp_path, monkeypatch
):
  assert recorded(project) is None
  # Hooks and `git rebase --exec` set these.
  monkeypatch.setenv('GIT_DIR', str(tmp_path / 'thesis' / '.git'))
  assert recorded(project) is None


def test_commit_of_the_code_is_recorded(project):
  revision = commit(project)
  assert recorded(project) == revision
  with (project / 'trainers' / 'run_folder.py').open('a') as file:
    file.write('# Edited.\n')
  assert recorded(project) == f'{revision}-dirty'


def test_commit_of_code_that_another_user_owns_is_recorded(project):
  if os.geteuid():
    pytest.skip('this needs root, who can give files away')
  revision = commit(project)
  for path in (project, *project.rglob('*')):
    os.chown(path, 65_534, 65_534)
  assert recorded(project) == revision
