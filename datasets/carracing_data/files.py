"""Output files and folders: created, checked and locked before work starts."""

from collections.abc import Callable, Iterator
import contextlib
import errno
import fcntl
import os
from pathlib import Path
import re
import shutil
import tempfile
import uuid

from carracing_data import errors

_LOCK = '.lock'
# gs://BUCKET/..., and gs:/BUCKET/..., which pathlib makes of it.
_ADDRESS = re.compile(r'[A-Za-z][A-Za-z0-9+.-]+:/')
_POINTER = b'version https://git-lfs.github.com/spec/'  # Of Git LFS.
# What some file systems answer that cannot sync the names in a folder, and
# those that have no locks.
_NO_SYNC = errno.EINVAL, errno.EBADF, errno.ENOTSUP
_NO_LOCKS = errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP
_RANDOM = '[0-9a-f]{32}'  # In the name of what is not complete.


def expand(path: str | os.PathLike[str]) -> Path:
  """Returns a path given by a user, with `~` expanded.

  Raises:
    errors.UserError: it is empty or an address, or the user named after `~`
      does not exist.
  """
  if not os.fspath(path):
    raise errors.UserError('a path is empty; name a file or a folder')
  if '\0' in os.fspath(path):
    raise errors.UserError(f'{os.fspath(path)!r} is no path: it contains a NUL')
  if _ADDRESS.match(os.fspath(path)):
    raise errors.UserError(
      f'{path} is an address, not a path; copy what is there to this machine,'
      ' or copy results there afterwards (docs/SHARING.md)'
    )
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
    for link in (path, *path.parents):
      if link.is_symlink() and not link.exists():
        raise errors.UserError(
          f'cannot write {path}: {link} is a link to {os.readlink(link)}, which'
          ' is not there'
        )
    path.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path).close()
  return path


def claim_file(path: str | os.PathLike[str], begins: bytes = b'') -> Path:
  """Checks that a file can be written, and creates its folder.

  Args:
    path: file that may exist.
    begins: what it begins with, in small letters, if it is not empty; or else
      it is something else.

  Returns:
    The file, which may be replaced.

  Raises:
    errors.UserError: it cannot be written, or is a folder, a device or a link.
  """
  path = Path(path).absolute()
  refuse_link(path)
  with write_errors(path):
    unusable = path.exists() and not path.is_file()
  if unusable:
    raise errors.UserError(f'cannot write {path}: it is not a regular file')
  if begins and path.exists():
    with write_errors(path), path.open('rb') as file:
      found = file.read(len(begins))
    if found.lower() not in (b'', begins):
      raise errors.UserError(
        f'cannot write {path}: it holds something else; name another file'
      )
  claim_folder(path.parent)
  return path


def refuse_link(path: Path) -> None:
  """Raises UserError if a path, which would be replaced, is a link."""
  if path.is_symlink():
    raise errors.UserError(
      f'cannot write {path}: it is a link to {os.readlink(path)}; delete the'
      ' link, or name what it leads to'
    )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
  """Holds an exclusive lock on a folder, which must exist.

  The lock is released when the process exits, even if it is killed.

  Raises:
    errors.UserError: another process holds the lock.
  """
  with contextlib.ExitStack() as stack:
    refuse_link(folder / _LOCK)
    with write_errors(folder / _LOCK):
      # A FIFO would wait for a reader.
      lock = stack.enter_context(
        open(
          folder / _LOCK,
          'ab',
          opener=lambda path, mode: os.open(path, mode | os.O_NONBLOCK, 0o666),
        )
      )
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        raise errors.UserError(
          f'another process is writing to {folder}; wait for it or stop it'
        ) from None
      except OSError as error:
        if error.errno not in _NO_LOCKS:
          raise
        raise errors.UserError(
          f'cannot lock {folder}: its file system has no locks'
          f' ({error.strerror}); mount it with locks (Lustre: -o flock), or'
          ' choose a local folder'
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
    content = path.read_bytes()
  except (FileNotFoundError, NotADirectoryError) as error:
    raise FileNotFoundError(*error.args, str(path)) from None
  except (OSError, ValueError) as error:  # The path may contain a NUL.
    reason = getattr(error, 'strerror', None) or error
    raise errors.UserError(
      f'cannot read {str(path)[:200]!r}: {reason}'
    ) from error
  _check_fetched(path, content)
  return content


def check_readable(path: str | os.PathLike[str]) -> None:
  """Checks that a file can be read, and that it is that file.

  Raises:
    errors.UserError: Git LFS has left a pointer in its place.
    OSError: the operating system cannot read it.
  """
  with open(path, 'rb') as file:
    _check_fetched(path, file.read(len(_POINTER)))


def _check_fetched(path: str | os.PathLike[str], content: bytes) -> None:
  if content.startswith(_POINTER):
    raise errors.UserError(
      f'{path} is a pointer of Git LFS; fetch the file with: git lfs pull'
    )


def replace(path: Path, write: Callable[[Path], object]) -> None:
  """Writes a file, or replaces it, atomically, even if the machine crashes.

  `write` writes the content to a given path.

  Raises:
    errors.UserError: the file cannot be written.
  """
  refuse_link(path)
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
  pattern = rf'\.{re.escape(path.name)}\.{_RANDOM}\.tmp'
  unfinished = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.tmp')
  with locked(claim_folder(path.parent)), write_errors(path):
    if os.path.lexists(path):
      raise errors.UserError(
        f'{path} already exists; choose another --output_dir or delete it'
      )
    for left in own_folders(path.parent, pattern):
      shutil.rmtree(left)
    unfinished.mkdir()
    try:
      yield unfinished
      for written in (unfinished, *unfinished.rglob('*')):
        sync(written)
      unfinished.rename(path)
      sync(path.parent)
    finally:
      shutil.rmtree(unfinished, ignore_errors=True)


def replace_text(path: Path, text: str) -> None:
  """Writes a text in UTF-8; see `replace`."""
  replace(path, lambda file: file.write_text(text, encoding='utf-8'))


def remove_temporary(folder: Path) -> None:
  """Removes what killed processes have left in a folder; see `replace`."""
  _remove_files(folder, rf'\..*\.{_RANDOM}\.tmp')


def remove_staging(folder: Path, pattern: str) -> None:
  """Removes the files of a pattern in a folder, then the folder if it is empty.

  A lock and what `remove_temporary` removes are removed, too.
  """
  remove_temporary(folder)
  _remove_files(folder, rf'\.lock|{pattern}')
  with contextlib.suppress(OSError):
    folder.rmdir()


def foreign(folder: Path, pattern: str) -> list[Path]:
  """Returns what is in a folder that neither we nor the system put there.

  The pattern is that of our own files.
  """
  ours = rf'\.lock|{pattern}|\..*\.{_RANDOM}\.tmp'
  return [
    x
    for x in folder.glob('*')
    if not (re.fullmatch(ours, x.name) or of_system(x))
  ]


def of_system(path: Path) -> bool:
  """Returns whether a file is one that macOS or NFS leaves in any folder."""
  return path.name.startswith(('.DS_Store', '.nfs'))


def _remove_files(folder: Path, pattern: str) -> None:
  for path in folder.glob('*'):
    if re.fullmatch(pattern, path.name) and path.is_file():
      if not path.is_symlink():
        path.unlink(missing_ok=True)


def own_folders(parent: Path, pattern: str) -> list[Path]:
  """Returns the folders in a folder, no links, with a name of a pattern."""
  found = [x for x in parent.iterdir() if re.fullmatch(pattern, x.name)]
  return sorted(x for x in found if x.is_dir() and not x.is_symlink())


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
  """Syncs a file, or the names in a folder if it can be done, to disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError as error:
    if error.errno not in _NO_SYNC or not path.is_dir():
      raise
  finally:
    os.close(descriptor)
