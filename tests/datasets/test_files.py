import errno
import os
import pathlib
import re
import shutil
import subprocess
import sys

from carracing_data import errors
from carracing_data import files
import pytest


def test_what_is_no_file_is_not_replaced(tmp_path):
  pipe = tmp_path / 'pipe'
  os.mkfifo(pipe)
  with pytest.raises(errors.UserError, match='pipe: it is not a regular file'):
    files.claim_file(pipe)
  assert pipe.is_fifo()


def test_a_lock_that_is_no_file_is_told_at_once(tmp_path):
  os.mkfifo(tmp_path / '.lock')
  with pytest.raises(errors.UserError, match='cannot write .*lock: No such de'):
    with files.locked(tmp_path):
      pass


@pytest.mark.parametrize('kind', ['pipe', 'device'])
def test_what_may_never_end_is_not_read(kind, tmp_path):
  path = tmp_path / 'file'
  if kind == 'pipe':
    os.mkfifo(path)
  else:
    path.symlink_to('/dev/zero')
  with pytest.raises(errors.UserError, match='cannot read .* no.* regular'):
    files.read_bytes(path)


@pytest.mark.parametrize('exists', [True, False])
def test_nothing_is_written_through_a_link(exists, tmp_path):
  target, link, lock = (tmp_path / x for x in ('target', 'link', '.lock'))
  if exists:
    target.write_text('a thesis')
  link.symlink_to(target)
  lock.symlink_to(target)
  message = 'cannot write .*: it is a link to .*target; delete the link'
  with pytest.raises(errors.UserError, match=message):
    files.claim_file(link)
  with pytest.raises(errors.UserError, match=message):
    files.replace(link, lambda file: file.write_text('new'))
  with pytest.raises(errors.UserError, match=message):
    with files.locked(tmp_path):
      pass
  assert link.is_symlink() and lock.is_symlink()
  assert not exists or target.read_text() == 'a thesis'
  assert target.exists() == exists


def test_a_file_that_holds_something_else_is_kept(tmp_path):
  path = tmp_path / 'file'
  for content in b'', b'<!DOCTYPE html>old':
    path.write_bytes(content)
    assert files.claim_file(path, b'<!doctype html>') == path
  path.write_bytes(b'A thesis')
  with pytest.raises(errors.UserError, match='it holds something else; name'):
    files.claim_file(path, b'<!doctype html>')


def test_unfinished_folders_of_others_are_kept(tmp_path):
  theirs, ours = tmp_path / '.new.unfinished', tmp_path / f'.new.{"0" * 32}.tmp'
  for folder in theirs, ours:
    folder.mkdir()
    (folder / 'thesis').touch()
  with files.new_folder(tmp_path / 'new') as unfinished:
    (unfinished / 'file').touch()
  assert (theirs / 'thesis').exists() and not ours.exists()


def test_temporary_files_of_others_are_kept(tmp_path):
  unique = '0a' * 16
  (tmp_path / f'.run.json.{unique}.tmp').touch()
  theirs = {'.notes.tmp', 'thesis.tmp', f'backup.{unique}.tmp'}
  for name in theirs:
    (tmp_path / name).touch()
  folder = tmp_path / f'.folder.{unique}.tmp'
  folder.mkdir()
  files.remove_temporary(tmp_path)
  left = {path.name for path in tmp_path.iterdir()}
  assert left == {*theirs, folder.name}


def test_link_to_what_is_not_there_is_told(tmp_path):
  link = tmp_path / 'link'
  link.symlink_to('nowhere')
  message = 'cannot write .*: .*link is a link to nowhere, which is not there'
  for folder in link, link / 'inside':
    with pytest.raises(errors.UserError, match=message):
      files.claim_folder(folder)
  assert not (tmp_path / 'nowhere').exists()


@pytest.mark.parametrize(
  'address',
  [
    'gs://bucket/runs/vae',
    'gs:/bucket/runs/vae',  # As pathlib writes it.
    's3://bucket',
    'hf://datasets/me/rollouts@0123abcd',
    'https://example.org/vae',
    'file:///tmp/vae',
  ],
)
def test_an_address_is_not_taken_for_a_path(address):
  for given in address, pathlib.PurePosixPath(address):
    with pytest.raises(errors.UserError, match='is an address.*SHARING.md'):
      files.expand(given)
  assert files.expand('a:b/c') and files.expand('./gs:/bucket')


@pytest.fixture(scope='module')
def file_system(tmp_path_factory):
  """Returns a library with the answers of an unusual file system."""
  if shutil.which('gcc') is None:
    pytest.skip('there is no gcc; run: apt-get install gcc')
  folder = tmp_path_factory.mktemp('file_system')
  (folder / 'answers.c').write_text(_ANSWERS)
  library = folder / 'answers.so'
  command = ['gcc', '-shared', '-fPIC', '-o', library, folder / 'answers.c']
  subprocess.run(command, check=True)
  return library


_ANSWERS = """
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int fsync(int fd) {
  struct stat about;
  const char *answer = getenv("FSYNC_OF_FOLDER");
  if (answer && !fstat(fd, &about) && S_ISDIR(about.st_mode)) {
    errno = atoi(answer);
    return -1;
  }
  return syscall(SYS_fsync, fd);
}

int flock(int fd, int operation) {
  const char *answer = getenv("FLOCK");
  if (!answer) return syscall(SYS_flock, fd, operation);
  errno = atoi(answer);
  return -1;
}
"""
_WRITES = """
import sys
from carracing_data import command_line, files, json_documents
def main(argv):
  folder = files.expand(argv[1])
  with files.locked(folder):
    json_documents.write(folder / 'a.json', 1)
  with files.new_folder(folder / 'new') as unfinished:
    (unfinished / 'file').touch()
command_line.run(main, takes_arguments=True)
"""


@pytest.mark.parametrize(
  ('call', 'number', 'message'),
  [
    ('FSYNC_OF_FOLDER', errno.EINVAL, None),
    ('FSYNC_OF_FOLDER', errno.EBADF, None),
    ('FSYNC_OF_FOLDER', errno.ENOTSUP, None),
    ('FSYNC_OF_FOLDER', errno.EIO, 'cannot write .*a.json: Input/output error'),
    ('FLOCK', errno.ENOSYS, 'cannot lock .*no locks.*-o flock'),
    ('FLOCK', errno.ENOLCK, 'cannot lock .*no locks.*-o flock'),
  ],
)
def test_file_systems_that_cannot_sync_folders_or_lock(
  call, number, message, file_system, tmp_path
):
  done = subprocess.run(
    [sys.executable, '-c', _WRITES, tmp_path],
    env={**os.environ, 'LD_PRELOAD': str(file_system), call: str(number)},
    capture_output=True,
    text=True,
    check=False,
  )
  if message is None:
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'new' / 'file').exists()
  else:
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert re.match(f'Error: {message}', line), line
