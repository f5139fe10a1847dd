"""A prepared dataset → its texts for people, which TFDS keeps beside it."""

from carracing_data import json_documents
from carracing_data import metadata
from carracing_data import prepared_dataset
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


def read(dataset: prepared_dataset.Dataset) -> Texts:
  """Reads the texts.

  Raises:
    errors.DocumentError: the file is damaged.
  """
  return json_documents.read(dataset.folder / metadata.INFO_FILE, Texts)
