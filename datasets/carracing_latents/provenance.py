"""Latents and the rollouts they were made from."""

from collections.abc import Iterator

from carracing_latents import loader
from carracing_rollouts import loader as rollouts_loader
import numpy as np
import tensorflow_datasets as tfds

_SHARED = (
  'action',
  'reward',
  'discount',
  'is_first',
  'is_last',
  'is_terminal',
)


def differences(
  latents: tfds.core.DatasetBuilder, rollouts: tfds.core.DatasetBuilder
) -> Iterator[str]:
  """Compares all that latents copy from their rollouts.

  Args:
    latents: what `prepared.find` returned.
    rollouts: likewise.

  Yields:
    How an episode differs.
  """
  for split in latents.info.splits:
    encoded = loader.episodes(str(latents.data_dir), split=split)
    driven = rollouts_loader.episodes(str(rollouts.data_dir), split=split)
    if len(encoded) != len(driven):
      yield f'{split} has {len(encoded)} episodes, not {len(driven)}'
      continue
    for index, (a, b) in enumerate(zip(encoded, driven)):
      for name in _SHARED:
        if not np.array_equal(a[name], getattr(b, name)):
          yield f'{name} of {split} episode {index} differs'
