"""What the configs of all trainers share: schemas, limits and validation.

A hyperparameter stands in one place: the class `Config` of its file, with
default, type, range, unit and comment. `get_config` of that file makes the
`ConfigDict` that the command line changes, `validated` makes it a `Config`
again, and `--help` lists the fields.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from carracing_data import errors
from carracing_data import json_documents
import ml_collections
import pydantic

# Larger numbers are typos: no machine has the memory or the time for them.
Count = Annotated[int, pydantic.Field(ge=1, le=100_000)]
Steps = Annotated[int, pydantic.Field(ge=1, le=1_000_000_000)]
Size = Annotated[int, pydantic.Field(ge=1, le=16_384)]
NotNegative = Annotated[float, pydantic.Field(ge=0)]
LearningRate = Annotated[float, pydantic.Field(ge=0, le=1)]  # Of Adam.
Share = Annotated[float, pydantic.Field(ge=0, le=1)]

_Config = TypeVar('_Config', bound=json_documents.Document)


class RunConfig(json_documents.Document):
  """Hyperparameters of every run; the comment of each is its description."""

  model_config = pydantic.ConfigDict(use_attribute_docstrings=True)

  seed: Annotated[int, pydantic.Field(ge=0, lt=2**32)] = 0
  """Seed of all random draws."""
  num_steps: Steps
  log_every_steps: Steps = 50
  eval_every_steps: Steps = 500
  checkpoint_every_steps: Steps = 500


class SupervisedConfig(RunConfig):
  """Hyperparameters of V and M."""

  architecture: json_documents.Name = 'paper'
  """A name in `ARCHITECTURES` of the model's file in `models/`."""
  dataset: str
  batch_size: Count
  dtype: Literal['float32', 'bfloat16'] = 'float32'
  """Of products of matrices and convolutions; bfloat16 for GPUs and TPUs."""
  learning_rate: LearningRate
  warmup_steps: Annotated[int, pydantic.Field(ge=0, le=1_000_000_000)] = 50
  """Steps of learning rate growth from 0."""
  cosine_decay: bool = True
  """Decay the learning rate to 0 in the last step."""
  max_gradient_norm: NotNegative
  """0: gradients are not clipped."""


def config_dict(config: json_documents.Document) -> ml_collections.ConfigDict:
  """Returns the hyperparameters as `--config` files return them."""
  return ml_collections.ConfigDict(config.model_dump())


def validated(
  config: ml_collections.ConfigDict | _Config, schema: type[_Config]
) -> _Config:
  """Validates a config, without the data; what is left out has its default.

  Raises:
    errors.UserError: a value is invalid; the message names it.
  """
  if isinstance(config, ml_collections.ConfigDict):
    content: Mapping[str, Any] = config.to_dict()
  else:
    content = config.model_dump()
  try:
    return schema.model_validate(content)
  except pydantic.ValidationError as error:
    message = f'invalid config: {json_documents.explain(error)}'
    if 'extra_forbidden' in {found['type'] for found in error.errors()}:
      message += '; is --config=FILE a config of this trainer?'
    raise errors.UserError(message) from None


def described(config: json_documents.Document) -> str:
  """Returns a line for every key, with its value and comment."""
  fields = type(config).model_fields
  width = max(map(len, fields))
  return '\n'.join(
    f'{name:{width}}  {getattr(config, name)!r}'
    + (f'  {" ".join(field.description.split())}' if field.description else '')
    for name, field in fields.items()
  )
