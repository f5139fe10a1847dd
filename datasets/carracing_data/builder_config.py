"""Builder configs whose keys and values are validated."""

import dataclasses
from typing import Any, ClassVar

from carracing_data import errors
from carracing_data import json_documents
import pydantic
import tensorflow_datasets as tfds


@dataclasses.dataclass(eq=False)
class Config(tfds.core.BuilderConfig):
  """A builder config whose keys and values are validated.

  Attributes:
    SCHEMA: schema of the keys that TFDS does not define.

  Raises:
    errors.DatasetError: a key or a value is invalid; the message names it.
  """

  SCHEMA: ClassVar[type[json_documents.Document]]

  def __new__(cls, *unused_args: Any, **kwargs: Any):
    # TFDS's other fields (versions, tags) are rejected, as they have no effect.
    known = {'name', 'description', *cls._own_fields()}
    given = {key for key, value in kwargs.items() if value or key in known}
    if unknown := sorted(given - known | (set(kwargs) - cls._all_fields())):
      keys = ', '.join(['name', *cls._own_fields()])
      raise errors.DatasetError(
        f'unknown config key {", ".join(map(repr, unknown))}; the keys are'
        f' {keys}'
      )
    return super().__new__(cls)

  def __post_init__(self):
    schema = pydantic.create_model(
      type(self).__name__, __base__=self.SCHEMA, name=json_documents.Name
    )
    names = ['name', *self._own_fields()]
    if not isinstance(self.description, str | None):
      raise errors.DatasetError(
        'invalid config: description: Input should be a valid string'
      )
    try:
      schema.model_validate({name: getattr(self, name) for name in names})
    except pydantic.ValidationError as error:
      raise errors.DatasetError(
        f'invalid config: {json_documents.explain(error)}'
      ) from None

  @classmethod
  def _all_fields(cls) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}

  @classmethod
  def _own_fields(cls) -> list[str]:
    inherited = dataclasses.fields(tfds.core.BuilderConfig)
    return sorted(cls._all_fields() - {field.name for field in inherited})
