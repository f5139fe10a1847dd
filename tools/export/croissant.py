"""A prepared dataset → `croissant.json`, its description in JSON-LD.

Croissant loaders can read its splits and features, but not the records.

https://docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

from pathlib import Path
from typing import Any

from absl import logging
from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
from carracing_data import prepared_dataset
from carracing_latents import schema as latents_schema
from carracing_rollouts import schema as rollouts_schema
import mlcroissant as mlc
import numpy as np
from tools.export import descriptions

_RECORDS = 'application/octet-stream'  # ArrayRecord has no media type.
_STATISTICS = {
  'num_episodes',
  'num_steps',
  'num_terminated',
  'return_mean',
  'content_sha256',
}
_READING = (
  'Croissant loaders can read the record sets `splits` and `features`, but not'
  ' the records themselves, which are ArrayRecord files. Read those with'
  ' `tensorflow_datasets.builder_from_directory(FOLDER)` and its'
  ' `as_data_source`.'
)


def export(name: str, output_dir: Path, data_dir: str | None = None) -> None:
  """Describes the files, digests, splits and features of rollouts or latents.

  Paths in the description are relative to the dataset's folder.

  Raises:
    errors.DatasetError: the dataset is missing or of another kind, or the
      description is not valid Croissant.
    errors.UserError: the file cannot be written.
  """
  prepared = prepared_dataset.find(
    name, data_dir, latents_schema.KIND, rollouts_schema.KIND
  )
  path = files.claim_file(output_dir / 'croissant.json', b'{')
  json_documents.write(path, _description(prepared))
  logging.info('Saved %s', path)


def _description(prepared: prepared_dataset.Dataset) -> dict[str, Any]:
  texts = descriptions.texts(prepared)
  distribution: list[Any] = [
    mlc.FileObject(
      id=name,
      name=name,
      content_url=name,
      encoding_formats=[_RECORDS],
      sha256=sha256,
    )
    for name, sha256 in prepared.metadata.files_sha256.items()
  ]
  splits = [
    {
      'name': split,
      **recorded.model_dump(include=_STATISTICS, exclude_none=True),
    }
    for split, recorded in prepared.splits.items()
  ]
  of_records: Any = prepared.features
  features = [
    {
      'name': name,
      'dtype': np.dtype(feature.np_dtype).name,
      'shape': str(list(feature.shape)),
    }
    for name, feature in of_records.items()
  ]
  metadata = mlc.Metadata(
    name=prepared.full_name.replace('/', '-').replace(':', '-'),
    description=f'{_READING}\n\n{texts.description}',
    url=texts.homepage,
    version=str(prepared.version),
    license=['https://www.apache.org/licenses/LICENSE-2.0'],
    cite_as=texts.citation,
    distribution=distribution,
    record_sets=[
      _record_set('splits', 'The splits and their statistics.', splits),
      _record_set('features', 'The features of every record.', features),
    ],
  )
  if metadata.issues.errors:
    raise errors.DatasetError(metadata.issues.report())
  return metadata.to_json()


def _record_set(name: str, description: str, rows: list[Any]) -> mlc.RecordSet:
  """Returns a table whose rows are part of the description itself."""
  types = {
    str: mlc.DataType.TEXT,
    int: mlc.DataType.INTEGER,
    float: mlc.DataType.FLOAT,
  }
  return mlc.RecordSet(
    id=name,
    name=name,
    description=description,
    fields=[
      mlc.Field(id=f'{name}/{key}', name=key, data_types=[types[type(value)]])
      for key, value in rows[0].items()
    ],
    data=[
      {f'{name}/{key}': value for key, value in row.items()} for row in rows
    ],
  )
