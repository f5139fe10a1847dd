"""Staging folders, where finished shards wait for the last one.

A folder's name is a fingerprint of all that its shards depend on, so that a
build never continues what other code or another config began.
"""

from collections.abc import Iterator, Mapping
import contextlib
import json
from pathlib import Path
import shutil
import threading
from typing import Any

from absl import logging
from carracing_data import documents
from carracing_data import shards
from tensorflow_datasets.core.utils import tqdm_utils

_POLL_SECONDS = 1.0
_PREFIX = '.staging-'
_DEPENDS_ON = 'depends_on.json'


def enter(parent: Path, depends_on: Mapping[str, Any]) -> Path:
  """Returns the folder for shards that depend on the very same things.

  Folders of other builds are kept until this one is complete.

  Args:
    parent: of the folder.
    depends_on: all that may shape the shards; JSON.
  """
  fingerprint = documents.digest(depends_on)[:16]
  folder = parent / f'{_PREFIX}{fingerprint}'
  folder.mkdir(exist_ok=True)
  documents.write(folder / _DEPENDS_ON, depends_on)
  for other in sorted(parent.glob(f'{_PREFIX}*')):
    if other != folder:
      _tell_of_other(other, json.loads((folder / _DEPENDS_ON).read_text()))
  remove_temporary(folder)
  return folder


def remove_all(parent: Path) -> None:
  """Removes the folders of all builds."""
  for folder in parent.glob(f'{_PREFIX}*'):
    shutil.rmtree(folder)


def remove_temporary(folder: Path) -> None:
  """Removes what killed workers left."""
  for path in folder.glob('*.tmp'):
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def progress(name: str, folder: Path, total: int) -> Iterator[None]:
  """Shows how many shards lie in the staging folder, whoever writes them."""
  done = threading.Event()

  found = len(list(folder.glob(f'*{shards.RECORD}')))

  def watch(shown_bar: Any) -> None:
    shown, finished = found, False
    while not finished:
      finished = done.wait(_POLL_SECONDS)
      now = len(list(folder.glob(f'*{shards.RECORD}')))
      shown_bar.update(now - shown)
      shown = now

  with tqdm_utils.tqdm(
    total=total, initial=found, unit=' shards', desc=name
  ) as shown_bar:
    watcher = threading.Thread(target=watch, args=(shown_bar,), daemon=True)
    watcher.start()
    try:
      yield
    finally:
      done.set()
      watcher.join()


def _tell_of_other(other: Path, depends_on: Mapping[str, Any]) -> None:
  """Says what an earlier, interrupted build of this name has left."""
  finished = len(list(other.glob(f'*{shards.RECORD}')))
  try:
    found = dict(json.loads((other / _DEPENDS_ON).read_text()))
  except (OSError, TypeError, ValueError):
    found = {}
  differing = [
    key
    for key in sorted({*depends_on, *found})
    if found.get(key) != depends_on.get(key)
  ]
  logging.warning(
    'An earlier build left %d finished shards in %s. They cannot be used now:'
    ' what they depend on differs in %s. They are deleted when this build is'
    ' complete.',
    finished,
    other,
    ', '.join(differing),
  )
