"""A prepared dataset → its description in Croissant JSON-LD.

https://docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

from typing import Any

from carracing_data import errors
from carracing_data import prepared
import mlcroissant as mlc
import numpy as np
import tensorflow_datasets as tfds

_RECORDS = 'application/octet-stream'  # ArrayRecord has no media type.


def describe(builder: tfds.core.DatasetBuilder) -> dict[str, Any]:
  """Describes files, their digests, splits and features.

  Args:
    builder: what `prepared.find` returned.

  Returns:
    JSON-LD; paths are relative to the dataset's folder.

  Raises:
    errors.DatasetError: the description is not valid Croissant.
  """
  info: Any = builder.info
  files = [
    mlc.FileObject(
      id=name,
      name=name,
      content_url=name,
      encoding_formats=[_RECORDS],
      sha256=sha256,
    )
    for name, sha256 in info.metadata['files_sha256'].items()
  ]
  file_sets = [
    mlc.FileSet(
      id=f'{split}-files',
      name=f'{split}-files',
      encoding_formats=[_RECORDS],
      includes=[f'{builder.name}-{split}.array_record-*'],
    )
    for split in info.splits
  ]
  record_sets = [
    mlc.RecordSet(
      id=split,
      name=split,
      description=_describe_split(info, split),
      fields=[
        _field(split, name, feature) for name, feature in info.features.items()
      ],
    )
    for split in info.splits
  ]
  metadata = mlc.Metadata(
    name=prepared.full_name(builder).replace('/', '-').replace(':', '-'),
    description=info.description,
    url=info.homepage,
    version=str(builder.version),
    license=['https://www.apache.org/licenses/LICENSE-2.0'],
    cite_as=info.citation,
    distribution=[*files, *file_sets],
    record_sets=record_sets,
  )
  if metadata.issues.errors:
    raise errors.DatasetError(metadata.issues.report())
  return metadata.to_json()


def _describe_split(info: Any, split: str) -> str:
  metadata = info.metadata['splits'][split]
  return (
    f'{metadata["num_episodes"]} episodes, {metadata["num_steps"]} steps,'
    f' content SHA-256 {metadata["content_sha256"]}'
  )


def _field(split: str, name: str, feature: Any) -> mlc.Field:
  kinds = {
    np.integer: mlc.DataType.INTEGER,
    np.floating: mlc.DataType.FLOAT,
    np.bool_: mlc.DataType.BOOL,
  }
  [data_type] = [
    kind
    for base, kind in kinds.items()
    if np.issubdtype(feature.np_dtype, base)
  ]
  return mlc.Field(
    id=f'{split}/{name}',
    name=name,
    description=f'{np.dtype(feature.np_dtype).name} {list(feature.shape)}',
    data_types=[data_type],
    source=mlc.Source(
      file_set=f'{split}-files',
      extract=mlc.Extract(file_property=mlc.FileProperty.content),
    ),
  )
