"""Stages of the loaders."""

from collections.abc import Iterator
import functools
from pathlib import Path

from carracing_latents import loader as latents_loader
from carracing_rollouts import loader as rollouts_loader
import grain
import jax
import numpy as np
from tools.benchmark import contest
from tools.benchmark import data
from tools.benchmark import mdn_rnn
from tools.benchmark import vae
from trainers import devices

_BATCH = 100


def stages(data_dir: Path) -> list[contest.Stage]:
  """Returns the stages of the loaders."""
  return [
    contest.Stage(
      'frames',
      f'`frames` loader, uint8 batches of {_BATCH}, warm cache',
      'frames',
      [
        contest.Contender('ours', frames, (data_dir,)),
        contest.Contender(
          'np.load of .npz, compressed', npz, (data_dir / 'npz_compressed',)
        ),
        contest.Contender(
          'np.load of .npz, not compressed', npz, (data_dir / 'npz',)
        ),
        contest.Contender('all in RAM', in_memory, (data_dir,)),
      ],
      functools.partial(data.make_npz, data_dir),
    ),
    contest.Stage(
      'frames_on_device',
      '`frames` loader, as the trainer reads it',
      'frames',
      [
        contest.Contender('ours', frames, (data_dir, True)),
        contest.Contender('VAE training step', vae.train_step),
      ],
      functools.partial(data.make_rollouts, data_dir),
    ),
    contest.Stage(
      'windows',
      '`windows` loader, [32, 128, 35]',
      'windows',
      [
        contest.Contender('ours', windows, (data_dir,)),
        contest.Contender('MDN-RNN training step', mdn_rnn.windows_consumed),
      ],
      functools.partial(data.make_latents, data_dir),
    ),
  ]


def frames(data_dir: Path, to_device: bool = False) -> contest.Work:
  """Prepares reading frames, and sending them to the device if asked to."""
  dataset = rollouts_loader.frames(
    data.ROLLOUTS, data_dir=data_dir, batch_size=_BATCH
  )
  return _batches(devices.send_ahead(dataset) if to_device else dataset, _BATCH)


def windows(data_dir: Path) -> contest.Work:
  """Prepares reading windows."""
  dataset = latents_loader.windows(
    data.LATENTS,
    data_dir=data_dir,
    batch_size=32,
    window_steps=128,
  )
  return _batches(dataset, 32)


def npz(folder: Path) -> contest.Work:
  """Prepares the ad hoc loader: each batch comes from one random file."""
  paths = sorted(folder.glob('*.npz'))
  rng = np.random.default_rng(0)

  def work() -> float:
    episode = np.load(paths[rng.integers(len(paths))])['observation']
    return len(episode[rng.integers(0, len(episode), _BATCH)])

  return work


def in_memory(data_dir: Path) -> contest.Work:
  """Prepares the upper bound: batches gathered from one array."""
  everything = np.concatenate([e.observation for e in data.episodes(data_dir)])
  rng = np.random.default_rng(0)

  def work() -> float:
    return len(everything[rng.integers(0, len(everything), _BATCH)])

  return work


def _batches(dataset: grain.IterDataset, batch_size: int) -> contest.Work:
  iterator: Iterator = iter(dataset)

  def work() -> float:
    jax.block_until_ready(next(iterator))
    return batch_size

  return work
