"""A prepared dataset → what exports say of it: its texts, and its steps."""

from typing import Any, NamedTuple

from carracing_data import json_documents
from carracing_data import metadata
from carracing_data import prepared_dataset
from carracing_rollouts import schema
import numpy as np
import pydantic


class _Location(pydantic.BaseModel):
  urls: list[str] = []


class Texts(pydantic.BaseModel):
  """Texts in `dataset_info.json`.

  Attributes:
    description: the dataset card, in Markdown.
    citation: works to cite, in BibTeX.
    location: its first URL is the homepage, if there is one.
    releaseNotes: what changed, by version.
  """

  description: str = ''
  citation: str = ''
  location: _Location = _Location()
  releaseNotes: dict[str, str] = {}

  @property
  def homepage(self) -> str:
    return ''.join(self.location.urls[:1])


def texts(dataset: prepared_dataset.Dataset) -> Texts:
  """Reads the texts.

  Raises:
    errors.DocumentError: the file is damaged.
  """
  return json_documents.read(dataset.folder / metadata.INFO_FILE, Texts)


class StepFeature(NamedTuple):
  """A feature of a step: the name of its NumPy dtype, and its shape."""

  dtype: str
  shape: tuple[int, ...]


def step_features(
  rollouts: prepared_dataset.Dataset,
) -> dict[str, StepFeature]:
  """Returns the features of a single step, by name.

  Args:
    rollouts: a dataset whose records are segments of steps; what has no axis
      of steps, such as the number of the episode, is left out.
  """
  features: Any = rollouts.features
  return {
    name: StepFeature(np.dtype(x.np_dtype).name, x.shape[1:])
    for name, x in features.items()
    if x.shape
  }


def step_values(
  rollouts: prepared_dataset.Dataset, episode: schema.Episode
) -> dict[str, np.ndarray]:
  """Returns the features of the steps that the dataset has, by name."""
  return {name: getattr(episode, name) for name in step_features(rollouts)}
