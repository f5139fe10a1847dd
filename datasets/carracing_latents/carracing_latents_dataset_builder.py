"""Encodes rollouts with V as the dataset `carracing_latents`.

tfds build datasets/carracing_latents
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
import os
from pathlib import Path
from typing import Annotated, Any

from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
from carracing_data import prepared_dataset
from carracing_data import rlds_steps
from carracing_data import runtime
from carracing_data import sharded_builder
from carracing_data import shards
from carracing_data import tfds_command
from carracing_latents import schema as latents_schema
from carracing_rollouts import loader as rollouts_loader
from carracing_rollouts import schema
import jax
from models import strided_convolution
from models import vae
from models import weights
from models import world_model
import numpy as np
import pydantic
import tensorflow_datasets as tfds

if tfds_command.is_running():
  runtime.prepare()


_PROJECT = Path(__file__).parents[2]

# Of those in XLA_FLAGS, they change no bit.
_FLAGS_WITHOUT_EFFECT = (
  '--xla_dump_',
  '--xla_force_host_platform_device_count',
)


class _Settings(json_documents.Document):
  rollouts: str
  vae: str
  latent_size: Annotated[int, pydantic.Field(ge=1, le=16_384)]


class LatentsConfig(sharded_builder.Config):
  """Config of `tfds build datasets/carracing_latents --config '{...}'`.

  Attributes:
    rollouts: dataset to encode, see `prepared_dataset.find`; a name is looked
      up in the data directory of the latents.
    vae: folder of the exported weights, relative to the working directory; by
      default that of the run in `runs/vae` of the project.
    latent_size: size of the latent vectors of this VAE.
  """

  SCHEMA = _Settings

  rollouts: str = 'carracing_rollouts/default'
  vae: str = os.fspath(_PROJECT / 'runs' / 'vae' / 'weights')
  latent_size: int = 32


class Builder(sharded_builder.ShardedBuilder):
  """Encodes every frame of a rollouts dataset with a trained VAE."""

  KIND = latents_schema.KIND
  CODE = (
    rollouts_loader,
    schema,
    rlds_steps,
    strided_convolution,
    vae,
    weights,
    world_model,
  )
  VERSION = tfds.core.Version(latents_schema.KIND.version)
  RELEASE_NOTES = {
    '2.0.0': 'Interventions, as in the rollouts.',
    '1.0.2': 'The metadata names the platform; the records are those of 1.0.1.',
    '1.0.1': 'The metadata counts terminated episodes and seals shard lengths.',
    '1.0.0': 'Initial release.',
  }
  BUILDER_CONFIGS = [
    LatentsConfig(
      name='default',
      description='The default rollouts, encoded by the VAE in runs/vae.',
    )
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=prepared_dataset.features_of(
        latents_schema.KIND.features,
        latent_size=self.builder_config.latent_size,
      ),
      disable_shuffling=True,
      metadata=tfds.core.MetadataDict(),
    )

  @functools.cached_property
  def _rollouts(self) -> prepared_dataset.Dataset:
    return prepared_dataset.find(
      self.builder_config.rollouts, self.data_dir_root, schema.KIND
    )

  @functools.cached_property
  def _vae(self) -> weights.Weights:
    loaded = weights.load(self.builder_config.vae, 'vae')
    sizes = loaded.model.latent_size, self.builder_config.latent_size
    if sizes[0] != sizes[1]:
      raise errors.DatasetError(
        f'the VAE in {self.builder_config.vae} has latent_size {sizes[0]},'
        f' not {sizes[1]}; add "latent_size": {sizes[0]} to --config'
      )
    return loaded

  def _identity(self) -> Mapping[str, Any]:
    # Not the folder of the weights, whose content may change.
    return {
      'rollouts': self._rollouts.full_name,
      'rollouts_content_sha256': self._rollouts.content_digests,
      'vae_sha256': self._vae.sha256,
    }

  def _packages(self) -> Sequence[str]:
    return ('array_record', 'flax', 'jax', 'jaxlib', 'numpy')

  def _platform(self) -> Mapping[str, str]:
    return _platform()

  def __init__(self, **kwargs: Any):
    # The encoder itself uses all cores or a GPU.
    super().__init__(num_workers=1, **kwargs)

  def _shards(self) -> Mapping[str, Sequence[shards.Shard]]:
    rollouts = os.path.abspath(self._rollouts.folder)
    folder = os.path.abspath(files.expand(self.builder_config.vae))
    platform = _platform()
    # Mean, logvar, action, reward and discount; float32 does not compress, and
    # the record format adds a tenth.
    step_bytes = 5 * (2 * self.builder_config.latent_size + 5)
    split_shards = {}
    for split in schema.SPLITS:
      steps = self._rollouts.splits[split].episode_steps
      split_shards[split] = [
        functools.partial(
          _write_episodes,
          rollouts=rollouts,
          split=split,
          vae_folder=folder,
          vae_sha256=self._vae.sha256,
          platform=platform,
          is_program=tfds_command.is_running(),
          episode_ids=episode_ids,
        )
        for episode_ids in shards.episodes_of_shards(
          len(steps), max(steps) * step_bytes
        )
      ]
    return split_shards


def _platform() -> dict[str, str]:
  """Returns the device and the settings that determine how XLA rounds."""
  device = jax.devices()[0]
  instruction_sets = []
  if device.platform == 'cpu':
    # NumPy leaves empty lists out.
    sets = np.show_config(mode='dicts').get('SIMD Extensions', {})
    instruction_sets = [*sets.get('baseline', ()), *sets.get('found', ())]
  flags = [
    flag
    for flag in os.environ.get('XLA_FLAGS', '').split()
    if not flag.startswith(_FLAGS_WITHOUT_EFFECT)
  ]
  return {
    'device': f'{device.platform} {device.device_kind}',
    'instruction_sets': ' '.join(instruction_sets),
    'xla_flags': ' '.join(sorted(flags)),
  }


def _write_episodes(
  write: Callable[[Mapping[str, Any]], None],
  *,
  rollouts: str,
  split: str,
  vae_folder: str,
  vae_sha256: str,
  platform: Mapping[str, str],
  is_program: bool,
  episode_ids: Iterable[int],
) -> list[rlds_steps.Summary]:
  """Encodes episodes and writes one record for each."""
  if is_program:  # And so is a worker on another machine.
    runtime.prepare()
  _check_platform(platform)
  model = _load(vae_folder, vae_sha256)
  episodes = rollouts_loader.episodes(rollouts, split=split)
  summaries = []
  for episode_id in episode_ids:
    episode = episodes[episode_id]
    mean, logvar = world_model.encode_episode(model, episode.observation)
    if not (np.isfinite(mean).all() and np.isfinite(logvar).all()):
      raise errors.DatasetError(
        f'the VAE returns NaN or infinite latents for episode {episode_id};'
        ' train it again'
      )
    copied = {name: getattr(episode, name) for name in latents_schema.COPIED}
    write({'episode_id': episode_id, 'mean': mean, 'logvar': logvar, **copied})
    summaries.append(rlds_steps.summarize(vars(episode)))
  return summaries


def _check_platform(wanted: Mapping[str, str]) -> None:
  """Raises DatasetError where other shards may round differently."""
  differences = [
    f'{name} {value!r}, not {wanted[name]!r}'
    for name, value in _platform().items()
    if value != wanted[name]
  ]
  if differences:
    raise errors.DatasetError(
      'this worker may round differently from the machine that started the'
      f' build: {"; ".join(differences)}; build on machines of one kind, with'
      ' the same XLA_FLAGS'
    )


@functools.lru_cache(maxsize=1)  # Read once for all shards of a process.
def _load(folder: str, sha256: str) -> world_model.WorldModel:
  loaded = weights.load(folder, 'vae')
  if loaded.sha256 != sha256:
    raise errors.DatasetError(
      f'the weights in {folder} changed during the build'
    )
  return world_model.WorldModel(loaded.model, jax.device_put(loaded.variables))
