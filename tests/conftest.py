"""One tiny world for all tests: real episodes, a real VAE, real latents."""

import dataclasses
from pathlib import Path

from carracing_latents import (
  carracing_latents_dataset_builder as latents_builder,
)
from carracing_rollouts import (
  carracing_rollouts_dataset_builder as rollouts_builder,
)
import jax
import ml_collections
import pytest
from trainers import runtime
from trainers import train_mdn_rnn
from trainers import train_vae
from trainers.configs import mdn_rnn as mdn_rnn_config
from trainers.configs import vae as vae_config

jax.config.update('jax_numpy_rank_promotion', 'raise')
runtime.prepare()  # Many tests compile the same step: kept as users have it.

ROLLOUTS = {'num_episodes': 4, 'max_steps': 70, 'seed': 1}


@dataclasses.dataclass(frozen=True)
class World:
  """What the fixtures below made.

  Attributes:
    data_dir: holds carracing_rollouts/tiny and carracing_latents/tiny.
    vae: exported weights.
    mdn_rnn: exported weights.
  """

  data_dir: Path
  vae: Path
  mdn_rnn: Path


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """Holds carracing_rollouts/tiny: 3 + 1 episodes of 71 steps."""
  folder = tmp_path_factory.mktemp('data')
  config = rollouts_builder.RolloutsConfig(name='tiny', **ROLLOUTS)
  rollouts_builder.Builder(
    data_dir=folder, config=config
  ).download_and_prepare()
  return folder


@pytest.fixture(scope='session')
def world(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
  """All stages after the rollouts, a few training steps each."""
  runs = tmp_path_factory.mktemp('runs')
  train_vae.train_and_export(tiny_vae_config(), runs / 'vae', str(data_dir))
  config = latents_builder.LatentsConfig(
    name='tiny',
    rollouts='carracing_rollouts/tiny',
    vae=str(runs / 'vae' / 'weights'),
  )
  latents_builder.Builder(
    data_dir=data_dir, config=config
  ).download_and_prepare()
  train_mdn_rnn.train_and_export(
    tiny_mdn_rnn_config(), runs / 'mdn_rnn', str(data_dir)
  )
  return World(data_dir, runs / 'vae' / 'weights', runs / 'mdn_rnn' / 'weights')


def tiny_vae_config() -> ml_collections.ConfigDict:
  config = vae_config.get_config()
  config.update(
    dataset='carracing_rollouts/tiny',
    batch_size=16,
    num_steps=6,
    log_every_steps=2,
    eval_every_steps=3,
    eval_batches=2,
    checkpoint_every_steps=3,
  )
  return config


def tiny_mdn_rnn_config() -> ml_collections.ConfigDict:
  config = mdn_rnn_config.get_config()
  config.update(
    dataset='carracing_latents/tiny',
    batch_size=4,
    window_steps=24,
    num_steps=6,
    log_every_steps=2,
    eval_every_steps=3,
    checkpoint_every_steps=3,
  )
  return config
