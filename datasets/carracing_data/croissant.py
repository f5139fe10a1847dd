"""A prepared dataset → its description in Croissant JSON-LD.

https://docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

from typing import Any

from carracing_data import errors
from carracing_data import prepared_dataset
import mlcroissant as mlc
import numpy as np
import tensorflow_datasets as tfds

_RECORDS = 'application/octet-stream'  # ArrayRecord has no media type.
_STATISTICS = (
  'num_episodes',
  'num_steps',
  'num_terminated',
  'return_mean',
  'content_sha256',
)
_READING = (
  'Croissant loaders can read the record sets `splits` and `features`, but not'
  ' the records themselves, which are ArrayRecord files. Read those with'
  ' `tensorflow_datasets.builder_from_directory(FOLDER)` and its'
  ' `as_data_source`.'
)


def describe(builder: tfds.core.DatasetBuilder) -> dict[str, Any]:
  """Describes the files, digests, splits and features of a dataset.

  Croissant loaders read the splits and features, but not ArrayRecord files.

  Args:
    builder: a builder returned by `prepared_dataset.find`.

  Returns:
    JSON-LD; paths are relative to the dataset's folder.

  Raises:
    errors.DatasetError: the description is not valid Croissant.
  """
  info: Any = builder.info
  files: list[Any] = [
    mlc.FileObject(
      id=name,
      name=name,
      content_url=name,
      encoding_formats=[_RECORDS],
      sha256=sha256,
    )
    for name, sha256 in info.metadata['files_sha256'].items()
  ]
  splits = [
    {'name': split, **{key: recorded[key] for key in _STATISTICS}}
    for split, recorded in info.metadata['splits'].items()
  ]
  features = [
    {
      'name': name,
      'dtype': np.dtype(feature.np_dtype).name,
      'shape': str(list(feature.shape)),
    }
    for name, feature in info.features.items()
  ]
  metadata = mlc.Metadata(
    name=prepared_dataset.full_name(builder)
    .replace('/', '-')
    .replace(':', '-'),
    description=f'{_READING}\n\n{info.description}',
    url=info.homepage,
    version=str(builder.version),
    license=['https://www.apache.org/licenses/LICENSE-2.0'],
    cite_as=info.citation,
    distribution=files,
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
