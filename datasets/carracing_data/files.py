"""Output files and folders: created, checked and locked before work starts."""

from collections.abc import Callable, Iterator
import contextlib
import errno
import fcntl
import os
from pathlib import Path
import shutil
import tempfile
import uuid

from carracing_data import errors

_LOCK = '.lock'


def expand(path: str | os.PathLike[str]) -> Path:
  """Returns a path given by a user, with `~` expanded.

  Raises:
    errors.UserError: the user named after `~` does not exist.
  """
  try:
    return Path(path).expanduser()
  except RuntimeError as error:
    raise errors.UserError(f'{path}: {error}') from None


def claim_folder(path: str | os.PathLike[str]) -> Path:
  """Creates a folder if it does not exist, and checks that it is writable.

  Raises:
    errors.UserError: it is not writable.
  """
  path = Path(path)
  with write_errors(path):
    path.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path).close()
  return path


def claim_file(path: str | os.PathLike[str]) -> Path:
  """Checks that a file can be written, and creates its folder.

  Args:
    path: file that may exist; a link stands for the file that it names.

  Returns:
    The file, which may be replaced.

  Raises:
    errors.UserError: it cannot be written, or is a folder or a device.
  """
  path = Path(os.path.realpath(path))
  with write_errors(path):
    unusable = path.exists() and not path.is_file()
  if unusable:
    raise errors.UserError(f'cannot write {path}: it is not a regular file')
  claim_folder(path.parent)
  return path


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
  """Holds an exclusive lock on a folder, which must exist.

  The lock is released when the process exits, even if it is killed.

  Raises:
    errors.UserError: another process holds the lock.
  """
  with contextlib.ExitStack() as stack:
    with write_errors(folder / _LOCK):
      lock = stack.enter_context((folder / _LOCK).open('w'))
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        raise errors.UserError(
          f'another process is writing to {folder}; wait for it or stop it'
        ) from None
    yield


@contextlib.contextmanager
def write_errors(path: str | os.PathLike[str]) -> Iterator[None]:
  """Turns an OSError, which may name no file, into a UserError that does."""
  try:
    yield
  except OSError as error:
    raise errors.UserError(
      f'cannot write {path}: {error.strerror or error}'
    ) from error


def read_bytes(path: Path) -> bytes:
  """Reads a regular file; a FIFO or a device might never end.

  Raises:
    FileNotFoundError: the file does not exist.
    errors.UserError: the operating system cannot read it.
  """
  try:
    if path.exists() and not (path.is_file() or path.is_dir()):
      raise OSError(errno.EINVAL, 'it is not a regular file')
    return path.read_bytes()
  except (FileNotFoundError, NotADirectoryError) as error:
    raise FileNotFoundError(*error.args, str(path)) from None
  except (OSError, ValueError) as error:  # The path may contain a NUL.
    reason = getattr(error, 'strerror', None) or error
    raise errors.UserError(
      f'cannot read {str(path)[:200]!r}: {reason}'
    ) from error


def replace(path: Path, write: Callable[[Path], object]) -> None:
  """Writes a file, or replaces it, atomically, even if the machine crashes.

  `write` writes the content to a given path.

  Raises:
    errors.UserError: the file cannot be written.
  """
  temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.tmp')
  try:
    with write_errors(path):
      write(temporary)
      make_durable(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
  """Yields a folder to fill, which appears at `path` once it is complete.

  What an interrupted call has left is removed.

  Raises:
    errors.UserError: `path` exists or cannot be written, or another process is
      writing next to it.
  """
  unfinished = path.with_name(f'.{path.name}.unfinished')
  with locked(claim_folder(path.parent)), write_errors(path):
    if os.path.lexists(path):
      raise errors.UserError(
        f'{path} already exists; choose another --output_dir or delete it'
      )
    if unfinished.exists():
      shutil.rmtree(unfinished)
    unfinished.mkdir()
    try:
      yield unfinished
      for written in (unfinished, *unfinished.rglob('*')):
        sync(written)
      unfinished.rename(path)
      sync(path.parent)
    finally:
      shutil.rmtree(unfinished, ignore_errors=True)


def make_durable(temporary: Path, path: Path) -> None:
  """Syncs a file to disk, renames it and syncs the new name."""
  sync(temporary)
  temporary.replace(path)
  sync(path.parent)


def move_aside(path: Path, aside: Path) -> Path:
  """Moves a file or folder to an unused path, which is returned.

  A number is appended to the new path if it is taken.
  """
  free, number = aside, 1
  while free.exists():
    number += 1
    free = aside.with_name(f'{aside.name}_{number}')
  path.rename(free)
  return free


def sync(path: Path) -> None:
  """Syncs a file, or the names in a folder, to disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
