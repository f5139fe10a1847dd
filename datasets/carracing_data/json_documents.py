"""JSON documents: schemas, digests, reading and writing."""

from collections.abc import Mapping
import hashlib
import json
from pathlib import Path
import re
from typing import Annotated, Any, TypeVar

from carracing_data import errors
from carracing_data import files
import pydantic
import pydantic_core

# Names of datasets, configs and packages; never paths or hidden files.
NAME = r'[A-Za-z0-9_][A-Za-z0-9_.\-]*'


def _check_name(name: str) -> str:
  if len(name) > 100 or not re.fullmatch(NAME, name):
    raise pydantic_core.PydanticCustomError(
      'name',
      'a name has at most 100 letters, digits, _, - and ., and does not'
      ' start with - or .',
    )
  return name


Name = Annotated[str, pydantic.AfterValidator(_check_name)]
Sha256 = Annotated[str, pydantic.StringConstraints(pattern='^[0-9a-f]{64}$')]
Version = Annotated[
  str, pydantic.StringConstraints(pattern=r'^[A-Za-z0-9_.!+\-]{1,100}$')
]

_Schema = TypeVar('_Schema', bound=pydantic.BaseModel)


class Document(pydantic.BaseModel):
  """A base schema; unknown keys, wrong types, NaN and infinity are errors."""

  model_config = pydantic.ConfigDict(
    extra='forbid', strict=True, frozen=True, allow_inf_nan=False
  )


def read(path: Path, schema: type[_Schema]) -> _Schema:
  """Reads a JSON document.

  Raises:
    FileNotFoundError: the file does not exist.
    errors.UserError: the operating system cannot read it.
    errors.DocumentError: it is not JSON or does not match the schema.
  """
  return parse(files.read_bytes(path), schema, str(path))


def parse(text: str | bytes, schema: type[_Schema], source: str) -> _Schema:
  """Parses a JSON document, in UTF-8 if bytes; error messages name `source`.

  Raises:
    errors.DocumentError: it is not JSON or does not match the schema.
  """
  try:
    return schema.model_validate_json(text)
  except pydantic.ValidationError as error:
    raise errors.DocumentError(
      f'{source} is damaged: {explain(error)}'
    ) from None


def explain(error: pydantic.ValidationError) -> str:
  """Describes the first violation of a schema in one line."""
  finding = error.errors(include_url=False)[0]
  where = '.'.join(map(str, finding['loc']))
  # Messages of our own validators need neither this prefix nor the value.
  message = finding['msg'].removeprefix('Value error, ')
  value = ''
  if finding['type'] not in ('missing', 'json_invalid', 'value_error'):
    text = repr(finding['input'])
    value = f', not {text if len(text) <= 60 else text[:57] + "..."}'
  more = error.error_count() - 1
  before = f'{where}: ' if where else ''
  after = f' (and {more} more)' if more else ''
  return f'{before}{message}{value}{after}'


def digest(content: Any) -> str:
  """Returns the SHA-256 of JSON content, independent of its formatting.

  Raises:
    ValueError: the content contains NaN or infinity.
  """
  text = json.dumps(content, sort_keys=True, allow_nan=False)
  return hashlib.sha256(text.encode()).hexdigest()


def sealed(content: Mapping[str, Any], seal: str) -> dict[str, Any]:
  """Adds the digest of a JSON object to it, so that edits are detectable.

  The seal is its key, whose value is replaced if there is one.

  Raises:
    ValueError: the content contains NaN or infinity.
  """
  rest = {key: value for key, value in content.items() if key != seal}
  return {**rest, seal: digest(rest)}


def is_sealed(content: Mapping[str, Any], seal: str) -> bool:
  """Returns whether a document matches its seal."""
  try:
    return content.get(seal) == sealed(content, seal)[seal]
  except ValueError:  # `write` rejects NaN and infinity.
    return False


def write(path: Path, content: Any) -> None:
  """Writes strict JSON (no NaN) atomically; replaces the file if it exists.

  Raises:
    errors.UserError: the file cannot be written.
    ValueError: the content contains NaN or infinity.
  """
  text = json.dumps(content, indent=2, allow_nan=False) + '\n'
  files.replace_text(path, text)
