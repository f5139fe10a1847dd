"""The `carracing_latents` dataset: `tfds build carracing_latents`."""

from carracing_data import errors
from carracing_data import prepared
from carracing_data import sharded_builder
from carracing_rollouts import loader as rollouts_loader
from carracing_rollouts import schema
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
import jax
from models import vae
from models import weights
import numpy as np
import tensorflow_datasets as tfds
from typing import Any

_MAX_SHARDS = 256
_BATCH = 256  # Frames that are encoded together.

errors.show_without_traceback(weights.WeightsError)


@dataclasses.dataclass(eq=False)
class LatentsConfig(sharded_builder.Config):
  """What `tfds build carracing_latents --config '{...}'` takes.

  Attributes:
    rollouts: the dataset to encode, see `prepared.find`; it is looked for in
      the data directory that the latents go to.
    vae: folder of the exported weights, relative to where the command runs.
    latent_size: numbers in a latent vector of this VAE.
  """

  rollouts: str = 'carracing_rollouts/default'
  vae: str = '../runs/vae/weights'  # `tfds build` runs in `datasets`.
  latent_size: int = 32


class Builder(sharded_builder.ShardedBuilder):
  """Encodes every frame of a rollouts dataset with a trained VAE."""

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'Initial release.'}
  BUILDER_CONFIGS = [
    LatentsConfig(
      name='default',
      description='The default rollouts through the VAE in runs/vae.',
    )
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    def steps(dtype: type, *shape: int | None) -> tfds.features.Tensor:
      return tfds.features.Tensor(
        shape=(None, *shape), dtype=dtype, encoding='bytes'
      )

    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          'episode_id': np.int64,
          'mean': steps(np.float32, self.builder_config.latent_size),
          'logvar': steps(np.float32, self.builder_config.latent_size),
          'action': steps(np.float32, 3),
          'reward': steps(np.float32),
          'discount': steps(np.float32),
          'is_first': steps(np.bool_),
          'is_last': steps(np.bool_),
          'is_terminal': steps(np.bool_),
        }
      ),
      disable_shuffling=True,
      metadata=tfds.core.MetadataDict(),
    )

  @functools.cached_property
  def _rollouts(self) -> str:
    """Returns the full name of the rollouts."""
    builder = prepared.find(self.builder_config.rollouts, self.data_dir_root)
    return prepared.full_name(builder)

  @functools.cached_property
  def _vae(self) -> weights.Weights:
    loaded = weights.load(self.builder_config.vae, 'vae')
    sizes = loaded.model.latent_size, self.builder_config.latent_size
    if sizes[0] != sizes[1]:
      raise errors.DatasetError(
        f'the VAE in {self.builder_config.vae} has {sizes[0]} latents, not'
        f' {sizes[1]}; add "latent_size": {sizes[0]} to the --config'
      )
    return loaded

  def _identity(self) -> Mapping[str, Any]:
    # Not the folder of the weights: another may lie there tomorrow.
    return {'rollouts': self._rollouts, 'vae_sha256': self._vae.sha256}

  def _num_workers(self) -> int:
    return 1  # The encoder uses all cores, or a GPU, by itself.

  def _shards(self) -> Mapping[str, Sequence[sharded_builder.Shard]]:
    encode = functools.partial(_encode, _compiled_encoder(self._vae))
    shards = {}
    for split in schema.SPLITS:
      episodes = rollouts_loader.episodes(
        self._rollouts, split=split, data_dir=self.data_dir_root
      )
      episode_ids = np.arange(len(episodes))
      shards[split] = [
        functools.partial(_write_episodes, episodes, ids.tolist(), encode)
        for ids in np.array_split(episode_ids, min(len(episodes), _MAX_SHARDS))
      ]
    return shards

  def _metadata(
    self, summaries: Mapping[str, Sequence[Mapping[str, Any]]]
  ) -> Mapping[str, Any]:
    del summaries
    return {'vae_training': self._vae.training}


def _compiled_encoder(
  loaded: weights.Weights,
) -> Callable[[np.ndarray], vae.Posterior]:
  return jax.jit(
    functools.partial(
      loaded.model.apply,
      jax.device_put(loaded.variables),
      method=vae.VAE.encode,
    )
  )


def _encode(
  encoder: Callable[[np.ndarray], vae.Posterior], observation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Encodes frames [N, 64, 64, 3] in batches of one size, compiled once."""
  parts = []
  for start in range(0, len(observation), _BATCH):
    batch = observation[start : start + _BATCH]
    padding = _BATCH - len(batch)
    padded = np.pad(batch, ((0, padding), (0, 0), (0, 0), (0, 0)))
    parts.append([np.asarray(x)[: len(batch)] for x in encoder(padded)])
  mean, logvar = (np.concatenate(part) for part in zip(*parts))
  return mean, logvar


def _write_episodes(
  episodes: Sequence[schema.Episode],
  episode_ids: Iterable[int],
  encode: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
  write: Callable[[Mapping[str, Any]], None],
) -> Mapping[str, Any]:
  """Writes the latents of some episodes, one record each."""
  for episode_id in episode_ids:
    episode = episodes[episode_id]
    mean, logvar = encode(episode.observation)
    if not (np.isfinite(mean).all() and np.isfinite(logvar).all()):
      raise errors.DatasetError(
        f'the VAE gives infinite latents or NaN for episode {episode_id};'
        ' train it again'
      )
    write(
      {
        'episode_id': episode_id,
        'mean': mean,
        'logvar': logvar,
        'action': episode.action,
        'reward': episode.reward,
        'discount': episode.discount,
        'is_first': episode.is_first,
        'is_last': episode.is_last,
        'is_terminal': episode.is_terminal,
      }
    )
  return {}
