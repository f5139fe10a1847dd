"""Checks a prepared dataset, or compares two.

  python -m tools.verify --dataset=carracing_rollouts
  python -m tools.verify --dataset=carracing_rollouts \
      --compare=/their/data/carracing_rollouts/default/1.0.0

Reads everything: digests, structure and values. Says what is wrong first, and
at which record, and exits with 1.
"""

from collections.abc import Sequence

from absl import flags
from absl import logging
from carracing_data import errors
from carracing_data import prepared
from carracing_data import verification
from carracing_latents import schema as latents_schema
from carracing_rollouts import schema as rollouts_schema
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
_PROBLEMS_OF = {
  'carracing_latents': latents_schema.broken_promises,
  'carracing_rollouts': rollouts_schema.broken_promises,
}


def main(argv: Sequence[str]) -> None:
  del argv
  builder = prepared.find(_DATASET.value, _DATA_DIR.value)
  if _COMPARE.value:
    other = prepared.find(_COMPARE.value, _DATA_DIR.value)
    if difference := verification.compare(builder, other):
      raise errors.DatasetError(
        f'{builder.data_dir} and {other.data_dir} differ: {difference}'
      )
    logging.info(
      '%s and %s hold the same content.', builder.data_dir, other.data_dir
    )
    return
  verification.verify(
    builder, _PROBLEMS_OF, lambda shards: tqdm.tqdm(shards, unit=' shards')
  )
  for split, metadata in builder.info.metadata['splits'].items():
    logging.info(
      '%s, %s: %d episodes, %d steps, content %s',
      prepared.full_name(builder),
      split,
      metadata['num_episodes'],
      metadata['num_steps'],
      metadata['content_sha256'],
    )


if __name__ == '__main__':
  commands.run(main)
