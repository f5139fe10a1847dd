"""Stages of V: training steps and encoding."""

import functools
from pathlib import Path

from carracing_data import runtime
from carracing_latents import (
  carracing_latents_dataset_builder as latents_builder,
)
from carracing_rollouts import environment
import jax
from models import vae
from models import world_model
import numpy as np
from tools.benchmark import contest
from tools.benchmark import data
from tools.benchmark import simulator
from trainers import optimizer
from trainers import train_vae
from trainers.configs import vae as vae_config

_BATCH = 100


def stages(data_dir: Path) -> list[contest.Stage]:
  """Returns the stages of V."""
  return [
    contest.Stage(
      'vae_step',
      f'VAE training step, batch {_BATCH}, float32',
      'images',
      [
        contest.Contender('ours', train_step),
        contest.Contender(
          'PyTorch, channels_last', 'pytorch:vae_step', (_BATCH, True)
        ),
        contest.Contender(
          'PyTorch, contiguous', 'pytorch:vae_step', (_BATCH, False)
        ),
        contest.Contender('lax convolutions, as in flax', lax_step),
      ],
    ),
    contest.Stage(
      'encoder',
      'encoder alone',
      'frames',
      [
        contest.Contender('ours', encoder),
        contest.Contender('`lax` convolutions with YNNPACK', ynnpack_encoder),
        contest.Contender(
          'PyTorch, channels_last', 'pytorch:vae_encoder', (_BATCH,)
        ),
      ],
    ),
    contest.Stage(
      'latents',
      'building `carracing_latents`',
      'frames',
      [
        contest.Contender('ours', build_latents, (data_dir,)),
        contest.Contender(
          'PyTorch, from and to ArrayRecord, without digests',
          pytorch_latents,
          (data_dir,),
        ),
      ],
      functools.partial(data.make_rollouts, data_dir),
    ),
  ]


def train_step(batch_size: int = _BATCH) -> contest.Work:
  """Prepares the training steps of the trainer."""
  runtime.prepare()
  config = vae_config.Config()
  step = functools.partial(train_vae.train_step, config)
  return contest.repeat(
    jax.jit(step, donate_argnums=0),
    train_vae.create_train_state(config),
    frames(batch_size),
    batch_size,
  )


def lax_step() -> contest.Work:
  """Prepares the same steps with the convolutions of flax's own layers."""
  runtime.prepare()
  config = vae_config.Config()
  model = vae.VAE(
    latent_size=config.latent_size, dtype=config.dtype, convolution='lax'
  )
  key = jax.random.key(0)

  def step(state, observation):
    def mean_loss(params):
      reconstruction, posterior = model.apply(
        {'params': params}, observation, key
      )
      losses = vae.loss(reconstruction, posterior, observation)
      return losses.total.mean(), losses

    state, losses, _ = optimizer.take_step(config, state, mean_loss)
    return state, losses

  return contest.repeat(
    jax.jit(step, donate_argnums=0),
    train_vae.create_train_state(config),
    frames(_BATCH),
    _BATCH,
  )


def encoder() -> contest.Work:
  """Prepares encoding of an episode as builds do it."""
  runtime.prepare()
  v, key = vae.VAE(), jax.random.key(0)
  observation = frames(environment.MAX_STEPS + 1)
  variables = v.init(key, observation[:1], key)
  model = world_model.WorldModel(v, jax.device_put(variables))

  def work() -> float:
    world_model.encode_episode(model, observation)
    return len(observation)

  return work


def ynnpack_encoder() -> contest.Work:
  """Prepares encoding with XLA's YNNPACK, which is not in use.

  It divides the sums of a convolution among threads, so the number of cores
  would change the latents.
  """
  runtime.prepare()
  v, key = vae.VAE(convolution='lax'), jax.random.key(0)
  observation = frames(48)  # As many as `encode_episode` encodes at once.
  encode = jax.jit(
    functools.partial(v.apply, method=v.encode),
    compiler_options={
      'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_DOT'
    },
  )
  variables = jax.device_put(v.init(key, observation[:1], key))

  def work() -> float:
    jax.device_get([encode(variables, observation) for _ in range(21)])
    return 21 * len(observation)

  return work


def build_latents(data_dir: Path) -> contest.Work:
  """Prepares builds of latents from the benchmark rollouts."""
  runtime.prepare()
  config = data.latents_config(data_dir)
  return simulator.builds(
    lambda folder: latents_builder.Builder(data_dir=folder, config=config)
  )


def pytorch_latents(data_dir: Path) -> contest.Work:
  """Prepares the encoding of the same dataset in PyTorch."""
  from tools.benchmark import pytorch  # In an extra.

  return pytorch.latents(data.rollouts_folder(data_dir), _BATCH)


def frames(batch_size: int) -> np.ndarray:
  """Returns random frames, uint8 [B, 64, 64, 3], 0..255."""
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (batch_size, 64, 64, 3), np.uint8)
