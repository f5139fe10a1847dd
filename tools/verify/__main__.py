r"""Verifies a prepared dataset, or compares two datasets.

  python -m tools.verify --dataset=carracing_rollouts
  python -m tools.verify --dataset=carracing_rollouts \
      --compare=/their/data/carracing_rollouts/default/4.0.0
  python -m tools.verify --dataset=/shared/carracing_rollouts/default/4.0.0 \
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
  from carracing_latents import schema as latents_schema
  from carracing_rollouts import schema as rollouts_schema
  from tools.verify import latents_comparison

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

  `prepared_dataset.find` finds it; any digest will do if `expect` is None.

  Raises:
    errors.DatasetError: there is no such dataset, it has another digest, or a
      check fails.
  """
  prepared = prepared_dataset.find(dataset, data_dir, *_kinds())
  if expect is not None:  # First: what is recorded takes no time to compare.
    prepared.check_digest(expect)
  num_shards = sum(len(prepared.metadata.shards(x)) for x in prepared.splits)
  with progress.Progress(prepared.name, 'shards', num_shards) as shown:
    shown.start()
    verification.verify(prepared, shown.count_one)
  if prepared.name == latents_schema.KIND.name:
    latents_comparison.check(prepared)
  for split, recorded in prepared.splits.items():
    logging.info(
      '%s, %s: %d episodes (%d terminated), %d steps, content %s',
      prepared.full_name,
      split,
      recorded.num_episodes,
      recorded.num_terminated,
      recorded.num_steps,
      recorded.content_sha256,
    )
  logging.info(
    'All records are intact%s: %s',
    '' if expect is None else ' and as expected',
    prepared.citation,
  )


def compare(first: str, second: str, data_dir: str | None) -> None:
  """Compares the content of two datasets; `prepared_dataset.find` finds them.

  Raises:
    errors.DatasetError: a dataset is missing, or the datasets differ.
  """
  datasets = [
    prepared_dataset.find(x, data_dir, *_kinds()) for x in (first, second)
  ]
  if difference := verification.compare(*datasets):
    raise errors.DatasetError(
      f'{datasets[0].folder} and {datasets[1].folder} differ: {difference}'
    )
  logging.info(
    '%s and %s hold the same content.', *(x.folder for x in datasets)
  )


def _kinds() -> 'tuple[metadata.Kind, ...]':
  """Returns the kinds of dataset; imports their schemas."""
  return latents_schema.KIND, rollouts_schema.KIND


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
