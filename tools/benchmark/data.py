"""The benchmark datasets, and the stages of their loaders."""

from collections.abc import Iterator
import functools
from pathlib import Path

from carracing_latents import (
  carracing_latents_dataset_builder as latents_builder,
)
from carracing_latents import loader as latents_loader
from carracing_rollouts import (
  carracing_rollouts_dataset_builder as rollouts_builder,
)
from carracing_rollouts import loader as rollouts_loader
import grain
import jax
from models import weights
import numpy as np
from tools.benchmark import contest
from tools.benchmark import mdn_rnn
from tools.benchmark import vae
from trainers import devices
from trainers import train_vae
from trainers.configs import vae as vae_config

_BATCH = 100
_ROLLOUTS = 'carracing_rollouts/benchmark'
_EPISODES = 25
_STEPS = 1000


def make(data_dir: Path) -> None:
  """Creates the missing parts of the benchmark data.

  Args:
    data_dir: directory for rollouts and latents with the config `benchmark`,
      the episodes as .npz files, and the weights of an untrained VAE.
  """
  rollouts = rollouts_builder.Builder(
    data_dir=data_dir,
    config=rollouts_builder.RolloutsConfig(
      name='benchmark', num_episodes=_EPISODES, max_steps=_STEPS
    ),
  )
  rollouts.download_and_prepare()
  if not (data_dir / 'vae').exists():
    state = train_vae.create_train_state(vae_config.Config())
    weights.save(data_dir / 'vae', 'vae', {'latent_size': 32}, state.params, {})
  latents_builder.Builder(
    data_dir=data_dir,
    config=latents_builder.LatentsConfig(
      name='benchmark',
      rollouts=str(rollouts.data_dir),
      vae=str(data_dir / 'vae'),
    ),
  ).download_and_prepare()
  for name, save in _SAVE.items():
    folder = data_dir / name
    folder.mkdir(exist_ok=True)
    for number, episode in enumerate(_episodes(data_dir)):
      if not (path := folder / f'{number}.npz').exists():
        save(path, observation=episode.observation)


def stages(data_dir: Path) -> list[contest.Stage]:
  """Returns the stages of the loaders.

  Args:
    data_dir: directory that `make` has filled.
  """

  def contender(name, prepare, *args):
    prepare = functools.partial(prepare, data_dir, *args)
    return contest.Contender(name, prepare)

  return [
    contest.Stage(
      'frames',
      f'`frames` loader, uint8 batches of {_BATCH}, warm cache',
      'frames',
      [
        contender('ours', frames),
        contender('np.load of .npz, compressed', npz, 'npz_compressed'),
        contender('np.load of .npz, not compressed', npz, 'npz'),
        contender('all in RAM', in_memory),
      ],
    ),
    contest.Stage(
      'frames_on_device',
      '`frames` loader, as the trainer reads it',
      'frames',
      [
        contender('ours', frames_on_device),
        contest.Contender('VAE training step', vae.train_step),
      ],
    ),
    contest.Stage(
      'windows',
      '`windows` loader, [32, 128, 35]',
      'windows',
      [
        contender('ours', windows),
        contest.Contender('MDN-RNN training step', mdn_rnn.windows_consumed),
      ],
    ),
  ]


def frames(data_dir: Path) -> contest.Work:
  """Prepares reading frames."""
  dataset = rollouts_loader.frames(
    _ROLLOUTS, data_dir=data_dir, batch_size=_BATCH
  )
  return _batches(dataset, _BATCH)


def frames_on_device(data_dir: Path) -> contest.Work:
  """Prepares reading frames and sending them to the device."""
  dataset = rollouts_loader.frames(
    _ROLLOUTS, data_dir=data_dir, batch_size=_BATCH
  )
  return _batches(devices.send_ahead(dataset), _BATCH)


def windows(data_dir: Path) -> contest.Work:
  """Prepares reading windows."""
  dataset = latents_loader.windows(
    'carracing_latents/benchmark',
    data_dir=data_dir,
    batch_size=32,
    window_steps=128,
  )
  return _batches(dataset, 32)


def npz(data_dir: Path, folder: str) -> contest.Work:
  """Prepares the ad hoc loader: each batch comes from one random file."""
  paths = sorted((data_dir / folder).glob('*.npz'))
  rng = np.random.default_rng(0)

  def work() -> float:
    episode = np.load(paths[rng.integers(len(paths))])['observation']
    return len(episode[rng.integers(0, len(episode), _BATCH)])

  return work


def in_memory(data_dir: Path) -> contest.Work:
  """Prepares the upper bound: batches gathered from one array."""
  everything = np.concatenate([e.observation for e in _episodes(data_dir)])
  rng = np.random.default_rng(0)

  def work() -> float:
    return len(everything[rng.integers(0, len(everything), _BATCH)])

  return work


_SAVE = {'npz': np.savez, 'npz_compressed': np.savez_compressed}


def _episodes(data_dir: Path):
  return rollouts_loader.episodes(_ROLLOUTS, data_dir=data_dir)


def _batches(dataset: grain.IterDataset, batch_size: int) -> contest.Work:
  iterator: Iterator = iter(dataset)

  def work() -> float:
    jax.block_until_ready(next(iterator))
    return batch_size

  return work
