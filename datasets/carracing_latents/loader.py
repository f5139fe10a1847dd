"""A prepared `carracing_latents` dataset → windows for training, or episodes.

  from carracing_latents import loader
  for windows in loader.windows('carracing_latents', batch_size=32, ...): ...

Needs only the data directory, not TensorFlow or the builder.
"""

from collections.abc import Mapping, Sequence
import functools
from typing import Any, NamedTuple

from carracing_data import batches
from carracing_data import errors
from carracing_data import prepared_dataset
from carracing_latents import schema
from etils import epath
import grain
import numpy as np

_GROUP_SIZE = 50  # Episodes whose windows are shuffled together: 13 MB.


class Windows(NamedTuple):
  """Windows of T consecutive transitions of one episode.

  Attributes:
    z: float32 [B, T, Z], latent vector of each step.
    action: float32 [B, T, 3], action of each step.
    next_z: float32 [B, T, Z], latent vector of the next step.
    reward: float32 [B, T], reward of the action.
    terminal: bool [B, T], whether the next step ends the task.
    mask: bool [B, T], False after the last transition of a window.
  """

  z: np.ndarray
  action: np.ndarray
  next_z: np.ndarray
  reward: np.ndarray
  terminal: np.ndarray
  mask: np.ndarray

  @property
  def inputs(self) -> np.ndarray:
    """`z` and `action`, concatenated: float32 [B, T, Z + 3]."""
    numpy = self.z.__array_namespace__()  # `jax.numpy` within `jit`.
    return numpy.concat([self.z, self.action], axis=-1)

  @property
  def targets(self) -> np.ndarray:
    """Alias of `next_z`."""
    return self.next_z


def windows(
  name: epath.PathLike | Sequence[epath.PathLike] = 'carracing_latents',
  *,
  split: str = 'train',
  batch_size: int,
  window_steps: int,
  sample: bool = True,
  seed: int = 0,
  num_epochs: int | None = None,
  data_dir: epath.PathLike | None = None,
  shard_index: int = 0,
  shard_count: int = 1,
  num_threads: int = 2,
) -> grain.IterDataset:
  """Returns shuffled windows with each transition exactly once per epoch.

  Episodes are cut at other places in each epoch, see `batches.windows`.

  Args:
    name: `dataset/config:version`, see `prepared_dataset.find`; or several
      ones, which are read as one.
    split: `train` or `validation`.
    batch_size: windows per batch.
    window_steps: transitions per window, T.
    sample: whether to sample latent vectors from their posterior, anew in each
      epoch, instead of using its mean.
    seed: seed of the order, the offsets and the samples.
    num_epochs: number of passes over the data; endless if None.
    data_dir: data directory, see `prepared_dataset.find`.
    shard_index: index of this host.
    shard_count: number of hosts, which divide the split among them.
    num_threads: number of read-ahead threads; does not affect the order.

  Returns:
    A Grain dataset of `Windows`; only the last batch of the last epoch may be
    smaller.

  Raises:
    errors.DatasetError: the dataset or the split is missing, or latents are not
      finite (raised when a batch is read).
    ValueError: a number is out of its range.
  """
  batches.check_integers(1, window_steps=window_steps)
  datasets = prepared_dataset.find_each(name, data_dir, schema.KIND)
  features = ['mean', 'logvar', 'action', 'reward', 'is_terminal']
  return batches.shuffled(
    prepared_dataset.concatenated(
      [x.records(split, features) for x in datasets]
    ),
    functools.partial(
      _cut,
      window_steps=window_steps,
      sample=sample,
      dataset=' + '.join(x.full_name for x in datasets),
    ),
    batch_size=batch_size,
    group_size=_GROUP_SIZE,
    seed=seed,
    num_epochs=num_epochs,
    shard_index=shard_index,
    shard_count=shard_count,
    num_threads=num_threads,
  )


def episodes(
  name: epath.PathLike = 'carracing_latents',
  *,
  split: str = 'train',
  data_dir: epath.PathLike | None = None,
) -> prepared_dataset.Records:
  """Returns the episodes of a split, in order, each read on access.

  Args:
    name: `dataset/config:version`, see `prepared_dataset.find`.
    split: `train` or `validation`.
    data_dir: data directory, see `prepared_dataset.find`.

  Returns:
    Records with arrays [N+1, ...] of steps, see the dataset card.

  Raises:
    errors.DatasetError: the dataset or the split is missing.
  """
  return prepared_dataset.find(name, data_dir, schema.KIND).records(split)


def _cut(
  records: Sequence[Mapping[str, Any]],
  rng: np.random.Generator,
  *,
  window_steps: int,
  sample: bool,
  dataset: str,
) -> Windows:

  def transitions(record: Mapping[str, Any]) -> Windows:
    z = record['mean']
    if sample:
      noise = rng.standard_normal(z.shape, np.float32)
      z = z + np.exp(record['logvar'] / 2) * noise
    action = record['action']
    if not (np.isfinite(z).all() and np.isfinite(action).all()):
      raise errors.DatasetError(
        f'{dataset} holds latents that are NaN or infinite; train the VAE'
        ' again, delete this dataset and rebuild it'
      )
    return Windows(
      z=z[:-1],
      action=action[:-1],
      next_z=z[1:],
      reward=record['reward'][:-1],
      terminal=record['is_terminal'][1:],
      mask=np.ones(len(z) - 1, bool),
    )

  return batches.windows(map(transitions, records), window_steps, rng)
