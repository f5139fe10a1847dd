r"""Verifies a prepared dataset, or compares two datasets.

  python -m tools.verify --dataset=carracing_rollouts
  python -m tools.verify --dataset=carracing_rollouts \
      --compare=/their/data/carracing_rollouts/default/1.1.0
  python -m tools.verify --dataset=/shared/carracing_rollouts/default/1.1.0 \
      --expect=DIGEST

Reads the whole dataset and checks its digests, structure and values; with
`--expect` also that it is the dataset that was cited with this digest. Reports
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
  from carracing_data import prepared_dataset
  from carracing_data import progress
  from carracing_data import verification
  from carracing_latents import provenance
  from carracing_latents import schema as latents_schema
  from carracing_rollouts import schema as rollouts_schema

_DATASET = command_line.dataset_flag()
_COMPARE = flags.DEFINE_string(
  'compare',
  None,
  'Dataset to compare with: dataset/config:version or a folder; by default'
  ' --dataset is verified instead.',
)
_EXPECT = flags.DEFINE_string(
  'expect',
  None,
  'Digest that the dataset must have, or its first 8 digits or more: a build'
  ' prints it at its end. By default any is accepted.',
)
_DATA_DIR = command_line.data_dir_flag()
flags.mark_flags_as_mutual_exclusive(['compare', 'expect'])


def verify(
  dataset: str, data_dir: str | None, expect: str | None = None
) -> None:
  """Verifies a dataset and logs its statistics and its digest.

  Args:
    dataset: name or folder of the dataset; see `prepared_dataset.find`.
    data_dir: data directory; see `prepared_dataset.find`.
    expect: digest of the dataset; None: any will do.

  Raises:
    errors.DatasetError: there is no such dataset, it has another digest, or a
      check fails.
  """
  kinds = _kinds()
  builder = prepared_dataset.find(dataset, data_dir, *kinds.values())
  if expect is not None:  # First: what is recorded takes no time to compare.
    prepared_dataset.check_digest(builder, expect)
  num_shards = sum(split.num_shards for split in builder.info.splits.values())
  with progress.Progress(builder.name, 'shards', num_shards) as shown:
    shown.start()
    verification.verify(builder, kinds[builder.name], shown.count_one)
  if builder.name == latents_schema.KIND.name:
    provenance.check(builder)
  for split, recorded in builder.info.metadata['splits'].items():
    logging.info(
      '%s, %s: %d episodes (%d terminated), %d steps, content %s',
      prepared_dataset.full_name(builder),
      split,
      recorded['num_episodes'],
      recorded['num_terminated'],
      recorded['num_steps'],
      recorded['content_sha256'],
    )
  logging.info(
    'All records are intact%s: %s',
    '' if expect is None else ' and as expected',
    prepared_dataset.citation(builder),
  )


def compare(first: str, second: str, data_dir: str | None) -> None:
  """Compares the content of two datasets.

  Args:
    first: name or folder of a dataset; see `prepared_dataset.find`.
    second: name or folder of the other dataset.
    data_dir: data directory; see `prepared_dataset.find`.

  Raises:
    errors.DatasetError: a dataset is missing, or the datasets differ.
  """
  kinds = _kinds().values()
  builders = [
    prepared_dataset.find(x, data_dir, *kinds) for x in (first, second)
  ]
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
  others = '' if _COMPARE.value is None else f' with {_COMPARE.value}'
  verb = 'Comparing' if others else 'Verifying'
  logging.info('%s %s%s.', verb, _DATASET.value, others)
  if _COMPARE.value is None:
    verify(_DATASET.value, _DATA_DIR.value, _EXPECT.value)
  else:
    compare(_DATASET.value, _COMPARE.value, _DATA_DIR.value)


if __name__ == '__main__':
  command_line.run(main)
