"""Checks a prepared dataset, or compares two.

  python -m tools.verify --dataset=carracing_rollouts
  python -m tools.verify --dataset=carracing_rollouts \
      --compare=/their/data/carracing_rollouts/default/1.0.0

Reads everything: digests, structure and values. Says what is wrong first, and
at which record, and exits with 1.
"""

from collections.abc import Sequence
import os
from pathlib import Path

from absl import flags
from absl import logging
from carracing_data import errors
from carracing_data import prepared
from carracing_data import verification
from carracing_latents import provenance
from carracing_latents import schema as latents_schema
from carracing_rollouts import schema as rollouts_schema
import tensorflow_datasets as tfds
import tqdm
from trainers import commands

_DATASET = flags.DEFINE_string(
  'dataset', 'carracing_rollouts', 'dataset/config:version, or its folder.'
)
_COMPARE = flags.DEFINE_string(
  'compare', None, 'Another one, to compare the content with.'
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Where datasets lie; by default as TFDS has it.'
)
_KINDS = (latents_schema.KIND, rollouts_schema.KIND)
_PROBLEMS_OF = {
  'carracing_latents': latents_schema.broken_promises,
  'carracing_rollouts': rollouts_schema.broken_promises,
}


def main(argv: Sequence[str]) -> None:
  del argv
  builder = prepared.find(_DATASET.value, _DATA_DIR.value, *_KINDS)
  if _COMPARE.value is not None:
    _compare(builder, prepared.find(_COMPARE.value, _DATA_DIR.value, *_KINDS))
    return
  num_shards = sum(split.num_shards for split in builder.info.splits.values())
  with tqdm.tqdm(total=num_shards, unit=' shards') as progress:
    verification.verify(
      builder, _PROBLEMS_OF[builder.name], lambda: progress.update()
    )
  if builder.name == 'carracing_latents':
    _compare_with_rollouts(builder)
  for split, metadata in builder.info.metadata['splits'].items():
    logging.info(
      '%s, %s: %d episodes (%d terminated), %d steps, content %s',
      prepared.full_name(builder),
      split,
      metadata['num_episodes'],
      metadata['num_terminated'],
      metadata['num_steps'],
      metadata['content_sha256'],
    )


def _compare(
  first: tfds.core.DatasetBuilder, second: tfds.core.DatasetBuilder
) -> None:
  if difference := verification.compare(first, second):
    raise errors.DatasetError(
      f'{first.data_dir} and {second.data_dir} differ: {difference}'
    )
  logging.info(
    '%s and %s hold the same content.', first.data_dir, second.data_dir
  )


def _compare_with_rollouts(latents: tfds.core.DatasetBuilder) -> None:
  """Compares latents with what they were made from, where that is at hand."""
  config = latents.info.metadata['config']
  data_dir = Path(latents.data_dir, *[os.pardir] * 3).resolve()
  try:
    rollouts = prepared.find(config['rollouts'], data_dir, rollouts_schema.KIND)
  except errors.DatasetError:
    logging.info(
      'Not compared with the rollouts: there is no %s in %s.',
      config['rollouts'],
      data_dir,
    )
    return
  if prepared.content_digests(rollouts) != config['rollouts_content_sha256']:
    logging.warning(
      'Not compared with the rollouts: %s has other content than what was'
      ' encoded.',
      rollouts.data_dir,
    )
    return
  for difference in provenance.differences(latents, rollouts):
    raise errors.DatasetError(
      f'{latents.data_dir} is not made from {rollouts.data_dir}: {difference}'
    )


if __name__ == '__main__':
  commands.run(main)
