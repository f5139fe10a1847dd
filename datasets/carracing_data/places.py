"""Places to write to: made, writable and locked before any work starts."""

from collections.abc import Callable, Iterator
import contextlib
import fcntl
import os
from pathlib import Path
import shutil
import uuid

from carracing_data import errors

_LOCK = '.lock'


def expand(path: str | os.PathLike[str]) -> Path:
  """Returns a path that a user gave, with `~` expanded.

  Raises:
    errors.PlaceError: there is no such user.
  """
  try:
    return Path(path).expanduser()
  except RuntimeError as error:
    raise errors.PlaceError(f'{path}: {error}') from None


def claim_folder(path: str | os.PathLike[str]) -> Path:
  """Makes a folder if there is none, and checks that it can be written to.

  Raises:
    errors.PlaceError: it cannot.
  """
  path = Path(path)
  probe = path / f'.{uuid.uuid4().hex}.tmp'
  with write_errors(path):
    path.mkdir(parents=True, exist_ok=True)
    probe.touch()
    probe.unlink()
  return path


def claim_file(path: str | os.PathLike[str]) -> Path:
  """Checks that a file can be written, and makes its folder.

  Raises:
    errors.PlaceError: it cannot.
  """
  path = Path(path)
  with write_errors(path):
    is_folder = path.is_dir()
  if is_folder:
    raise errors.PlaceError(f'cannot write {path}: it is a folder, not a file')
  claim_folder(path.parent)
  return path


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
  """Keeps other processes from writing to a folder meanwhile.

  The lock ends with the process, however that ends.

  Args:
    folder: must exist.

  Raises:
    errors.PlaceError: another process holds it.
  """
  with contextlib.ExitStack() as stack:
    with write_errors(folder / _LOCK):
      lock = stack.enter_context((folder / _LOCK).open('w'))
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        raise errors.PlaceError(
          f'another process is writing to {folder}; wait for it or stop it'
        ) from None
    yield


@contextlib.contextmanager
def write_errors(path: str | os.PathLike[str]) -> Iterator[None]:
  """Turns an OSError into a PlaceError that names the place.

  Raises:
    errors.PlaceError: as the operating system says.
  """
  try:
    yield
  except OSError as error:
    raise errors.PlaceError(
      f'cannot write {path}: {error.strerror or error}'
    ) from error


def read_bytes(path: Path) -> bytes:
  """Reads a file.

  Raises:
    FileNotFoundError: there is no such file.
    errors.UnreadableError: the operating system cannot read it.
  """
  try:
    return path.read_bytes()
  except FileNotFoundError:
    raise
  except NotADirectoryError as error:
    raise FileNotFoundError(*error.args, str(path)) from None
  except (OSError, ValueError) as error:  # The path may have a NUL in it.
    reason = getattr(error, 'strerror', None) or error
    raise errors.UnreadableError(
      f'cannot read {str(path)[:200]!r}: {reason}'
    ) from error


def replace(path: Path, write: Callable[[Path], object]) -> None:
  """Writes a file, all of it or nothing, whatever happens to the machine.

  Args:
    path: the file; replaced if it exists.
    write: writes the file that it is given.

  Raises:
    errors.PlaceError: the file cannot be written.
  """
  temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.tmp')
  try:
    with write_errors(path):
      write(temporary)
      make_durable(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def make_durable(temporary: Path, path: Path) -> None:
  """Renames a file only when it is on disk, and the new name as well."""
  sync(temporary)
  temporary.replace(path)
  sync(path.parent)


def move_aside(path: Path, aside: Path) -> Path:
  """Moves a file or folder to a name that is not taken.

  Args:
    path: what to move.
    aside: the new path; a number is added if it is taken.

  Returns:
    The new path.
  """
  free, number = aside, 1
  while free.exists():
    number += 1
    free = aside.with_name(f'{aside.name}_{number}')
  path.rename(free)
  return free


def check_space(folder: Path, num_bytes: int) -> None:
  """Checks that a disk has room.

  Args:
    folder: on that disk.
    num_bytes: that will be written.

  Raises:
    errors.PlaceError: it has not.
  """
  free = shutil.disk_usage(folder).free
  if free < num_bytes:
    raise errors.PlaceError(
      f'cannot write to {folder}: {num_bytes / 2**20:,.0f} MiB are needed,'
      f' {free / 2**20:,.0f} MiB are free'
    )


def sync(path: Path) -> None:
  """Waits until a file, or the names in a folder, are on disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
