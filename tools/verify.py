r"""Verifies a prepared dataset, or compares two datasets.

  python -m tools.verify --dataset=carracing_rollouts
  python -m tools.verify --dataset=carracing_rollouts \
      --compare=/their/data/carracing_rollouts/default/1.0.0

Reads the whole dataset and checks its digests, structure and values. Reports
the first error with its record, and exits with status 1.
"""

from collections.abc import Sequence

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import errors
from etils import epy

with epy.lazy_imports():
  from carracing_data import metadata
  from carracing_data import prepared
  from carracing_data import verification
  from carracing_latents import provenance
  from carracing_latents import schema as latents_schema
  from carracing_rollouts import schema as rollouts_schema
  import tqdm

_DATASET = command_line.dataset_flag()
_COMPARE = flags.DEFINE_string(
  'compare',
  None,
  'Dataset to compare with: dataset/config:version or a folder.',
)
_DATA_DIR = command_line.data_dir_flag()


def verify(dataset: str, data_dir: str | None) -> None:
  """Verifies a dataset and logs its statistics.

  Args:
    dataset: name or folder of the dataset; see `prepared.find`.
    data_dir: data directory; see `prepared.find`.

  Raises:
    errors.DatasetError: there is no such dataset, or a check fails.
  """
  kinds = _kinds()
  builder = prepared.find(dataset, data_dir, *kinds.values())
  num_shards = sum(split.num_shards for split in builder.info.splits.values())
  with tqdm.tqdm(total=num_shards, unit=' shards') as progress:
    verification.verify(builder, kinds[builder.name], progress.update)
  if builder.name == latents_schema.KIND.name:
    provenance.check(builder)
  for split, recorded in builder.info.metadata['splits'].items():
    logging.info(
      '%s, %s: %d episodes (%d terminated), %d steps, content %s',
      prepared.full_name(builder),
      split,
      recorded['num_episodes'],
      recorded['num_terminated'],
      recorded['num_steps'],
      recorded['content_sha256'],
    )


def compare(first: str, second: str, data_dir: str | None) -> None:
  """Compares the content of two datasets.

  Args:
    first: name or folder of a dataset; see `prepared.find`.
    second: name or folder of the other dataset.
    data_dir: data directory; see `prepared.find`.

  Raises:
    errors.DatasetError: a dataset is missing, or the datasets differ.
  """
  kinds = _kinds().values()
  builders = [prepared.find(x, data_dir, *kinds) for x in (first, second)]
  if difference := verification.compare(*builders):
    raise errors.DatasetError(
      f'{builders[0].data_dir} and {builders[1].data_dir} differ: {difference}'
    )
  logging.info(
    '%s and %s hold the same content.', *(b.data_dir for b in builders)
  )


def _kinds() -> 'dict[str, metadata.Kind]':
  """Returns the kinds of dataset by name; imports their schemas."""
  return {k.name: k for k in (latents_schema.KIND, rollouts_schema.KIND)}


def main(argv: Sequence[str]) -> None:
  del argv
  if _COMPARE.value is None:
    verify(_DATASET.value, _DATA_DIR.value)
  else:
    compare(_DATASET.value, _COMPARE.value, _DATA_DIR.value)


if __name__ == '__main__':
  command_line.run(main)
