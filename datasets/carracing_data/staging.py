"""Staging folders, which hold finished shards until all are written.

A folder's name is a fingerprint of everything its shards depend on, so a build
never continues one that other code or another config started.
"""

from collections.abc import Mapping
import json
from pathlib import Path
import shutil
from typing import Any

from absl import logging
from carracing_data import json_documents
from carracing_data import shards

_PREFIX = '.staging-'
_DEPENDS_ON = 'depends_on.json'


def enter(parent: Path, depends_on: Mapping[str, Any]) -> Path:
  """Creates the staging folder for shards with the given dependencies.

  Folders of other builds are kept until this one is complete.

  Args:
    parent: parent of the staging folder; must exist.
    depends_on: everything that may affect the shards; JSON.

  Returns:
    The staging folder, without temporary files.
  """
  fingerprint = json_documents.digest(depends_on)[:16]
  folder = parent / f'{_PREFIX}{fingerprint}'
  folder.mkdir(exist_ok=True)
  json_documents.write(folder / _DEPENDS_ON, depends_on)
  for other in sorted(parent.glob(f'{_PREFIX}*')):
    if other != folder:
      _tell_of_other(other, json.loads((folder / _DEPENDS_ON).read_text()))
  remove_temporary(folder)
  return folder


def remove_all(parent: Path) -> None:
  """Removes the staging folders of all builds."""
  for folder in parent.glob(f'{_PREFIX}*'):
    shutil.rmtree(folder)


def remove_temporary(folder: Path) -> None:
  """Removes the temporary files of killed workers."""
  for path in folder.glob('*.tmp'):
    path.unlink(missing_ok=True)


def num_finished(folder: Path) -> int:
  """Returns the number of finished shards in a staging folder."""
  return len(list(folder.glob(f'*{shards.RECORD}')))


def _tell_of_other(other: Path, depends_on: Mapping[str, Any]) -> None:
  """Warns of shards that an interrupted build of the same name has left."""
  if not (num_left := num_finished(other)):
    return
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
    'An earlier build left %d finished shards in %s. They cannot be reused:'
    ' this build differs in %s. They will be deleted when it is complete.',
    num_left,
    other,
    ', '.join(differing),
  )
