"""The data that stages read: 25 episodes, their latents and .npz files."""

from collections.abc import Sequence
from pathlib import Path

from carracing_data import prepared_dataset
from carracing_latents import (
  carracing_latents_dataset_builder as latents_builder,
)
from carracing_rollouts import (
  carracing_rollouts_dataset_builder as rollouts_builder,
)
from carracing_rollouts import loader
from carracing_rollouts import schema
from models import weights
import numpy as np
from trainers import train_vae
from trainers.configs import vae as vae_config

ROLLOUTS = 'carracing_rollouts/benchmark'
LATENTS = 'carracing_latents/benchmark'
_SAVE = {'npz': np.savez, 'npz_compressed': np.savez_compressed}


def make_rollouts(data_dir: Path) -> None:
  """Builds `ROLLOUTS`, if they are missing."""
  config = rollouts_builder.RolloutsConfig(
    name='benchmark', num_episodes=25, max_steps=1000
  )
  rollouts_builder.Builder(
    data_dir=data_dir, config=config
  ).download_and_prepare()


def make_latents(data_dir: Path) -> None:
  """Builds `LATENTS`, and what they are made of, if they are missing."""
  make_rollouts(data_dir)
  latents_builder.Builder(
    data_dir=data_dir, config=latents_config(data_dir)
  ).download_and_prepare()


def make_npz(data_dir: Path) -> None:
  """Saves each episode in `npz` and, compressed, in `npz_compressed`."""
  make_rollouts(data_dir)
  for name, save in _SAVE.items():
    folder = data_dir / name
    folder.mkdir(exist_ok=True)
    for number, episode in enumerate(episodes(data_dir)):
      if not (path := folder / f'{number}.npz').exists():
        save(path, observation=episode.observation)


def latents_config(data_dir: Path) -> latents_builder.LatentsConfig:
  """Returns the config of latents of `ROLLOUTS` by an untrained VAE."""
  vae = data_dir / 'vae'
  if not vae.exists():
    state = train_vae.create_train_state(vae_config.Config())
    weights.save(vae, 'vae', {'latent_size': 32}, state.params, {})
  return latents_builder.LatentsConfig(
    name='benchmark', rollouts=str(rollouts_folder(data_dir)), vae=str(vae)
  )


def rollouts_folder(data_dir: Path) -> Path:
  return prepared_dataset.find(ROLLOUTS, data_dir, schema.KIND).folder


def episodes(data_dir: Path) -> Sequence[schema.Episode]:
  return loader.episodes(ROLLOUTS, data_dir=data_dir)
