"""SHA-256 digests of a dataset's content, independent of its storage."""

from collections.abc import Iterable, Mapping
import hashlib
import inspect
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from carracing_data import json_documents
import numpy as np

SHORT = 12  # Hexadecimal digits of a short digest.


def of_record(record: Mapping[str, Any]) -> str:
  """Returns the digest of a record's names, dtypes, shapes and values."""
  digest = hashlib.sha256()
  for name in sorted(record):
    value = np.asarray(record[name])
    digest.update(f'{name} {value.dtype.str} {value.shape}\n'.encode())
    digest.update(np.ascontiguousarray(value).data)
  return digest.hexdigest()


class SplitDigest:
  """Digest of an ordered split, independent of its sharding.

  Attributes:
    num_records: number of records so far.
  """

  def __init__(self):
    self._digest = hashlib.sha256()
    self.num_records = 0

  def update(self, record_digests: Iterable[str]) -> None:
    """Appends records, given by their digests."""
    for record_digest in record_digests:
      self._digest.update(bytes.fromhex(record_digest))
      self.num_records += 1

  def hexdigest(self) -> str:
    return self._digest.hexdigest()


def of_dataset(split_digests: Mapping[str, str]) -> str:
  """Returns the digest of a dataset, given those of its splits, by name."""
  return json_documents.digest(split_digests)


def of_file(path: str | os.PathLike[str]) -> str:
  """Returns the digest of a file's bytes."""
  with Path(path).open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def of_bytes(content: bytes) -> str:
  """Returns the digest of bytes."""
  return hashlib.sha256(content).hexdigest()


def of_code(modules: Iterable[ModuleType]) -> str:
  """Returns the digest of the source code of modules."""
  digest = hashlib.sha256()
  for module in modules:
    digest.update(inspect.getsource(module).encode())
  return digest.hexdigest()
