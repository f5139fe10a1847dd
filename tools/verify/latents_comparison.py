"""Compares latents with the rollouts that they encode."""

from collections.abc import Iterator

from absl import logging
from carracing_data import errors
from carracing_data import prepared_dataset
from carracing_latents import loader
from carracing_latents import schema
from carracing_rollouts import loader as rollouts_loader
from carracing_rollouts import schema as rollouts_schema
import numpy as np


def check(latents: prepared_dataset.Dataset) -> None:
  """Compares latents with their rollouts, if both share a data directory.

  If they cannot be compared, the reason is logged.

  Args:
    latents: a dataset, see `prepared_dataset.find`.

  Raises:
    errors.DatasetError: they differ.
  """
  config = latents.config
  data_dir = (latents.folder / '../../..').resolve()
  try:
    rollouts = prepared_dataset.find(
      config['rollouts'], data_dir, rollouts_schema.KIND
    )
  except errors.DatasetError:
    logging.info(
      'Not compared with the rollouts: there is no %s in %s.',
      config['rollouts'],
      data_dir,
    )
    return
  if rollouts.content_digests != config['rollouts_content_sha256']:
    logging.warning(
      'Not compared with the rollouts: %s differs from the encoded dataset.',
      rollouts.folder,
    )
    return
  for difference in differences(latents, rollouts):
    raise errors.DatasetError(
      f'{latents.folder} was not made from {rollouts.folder}: {difference}'
    )


def differences(
  latents: prepared_dataset.Dataset, rollouts: prepared_dataset.Dataset
) -> Iterator[str]:
  """Compares the features that latents copy from their rollouts.

  Args:
    latents: a dataset, see `prepared_dataset.find`.
    rollouts: another one.

  Yields:
    A description of each difference.
  """
  for split in latents.splits:
    encoded = loader.episodes(str(latents.folder), split=split)
    driven = rollouts_loader.episodes(str(rollouts.folder), split=split)
    if len(encoded) != len(driven):
      yield f'{split} has {len(encoded)} episodes, not {len(driven)}'
      continue
    for index, (a, b) in enumerate(zip(encoded, driven)):
      for name in schema.COPIED:  # Not all of them in version 1.
        if name in a and not np.array_equal(a[name], getattr(b, name)):
          yield f'{name} of {split} episode {index} differs'
