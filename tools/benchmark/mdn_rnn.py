"""Stages of M: training steps and control steps."""

import functools
from pathlib import Path

from carracing_data import runtime
from carracing_latents import loader
import jax
import jax.numpy as jnp
from models import mdn_rnn
from models import vae
from models import world_model
import numpy as np
from tools.benchmark import contest
from tools.benchmark import vae as vae_benchmark
from trainers import devices
from trainers import train_mdn_rnn
from trainers.configs import mdn_rnn as mdn_rnn_config

_LATENT_SIZE = 32


def stages(data_dir: Path) -> list[contest.Stage]:
  """Returns the stages of M."""
  del data_dir
  steps = [
    contest.Stage(
      f'mdn_rnn_step_{batch_size}x{window_steps}',
      f'MDN-RNN training step, [{batch_size}, {window_steps}], float32',
      'transitions',
      [
        contest.Contender('ours', train_step, (batch_size, window_steps)),
        contest.Contender(
          'PyTorch nn.LSTM', 'pytorch:mdn_rnn_step', (batch_size, window_steps)
        ),
      ],
    )
    for batch_size, window_steps in ((100, 128), (32, 1000))
  ]
  controls = [
    contest.Stage(
      f'control_{batch_size}',
      f'control step, batch {batch_size}: encode, observe, act',
      'steps',
      [
        contest.Contender('ours', control, (batch_size,)),
        contest.Contender('PyTorch', 'pytorch:control', (batch_size,)),
      ],
    )
    for batch_size in (1, 64)
  ]
  return [*steps, *controls]


def train_step(batch_size: int, window_steps: int) -> contest.Work:
  """Prepares the training steps of the trainer."""
  runtime.prepare()
  runtime.divide_cpu(runtime.devices_for_batches(batch_size))
  config = mdn_rnn_config.Config(predict_outcomes=False)  # As in PyTorch.
  return contest.repeat(
    jax.jit(
      functools.partial(train_mdn_rnn.train_step, config),
      donate_argnums=0,
      out_shardings=devices.replicated(),
    ),
    devices.replicate(train_mdn_rnn.create_train_state(config, _LATENT_SIZE)),
    devices.shard_batch(_batch(batch_size, window_steps)),
    batch_size * window_steps,
  )


def windows_consumed() -> contest.Work:
  """Prepares training steps of the default size, counted in windows."""
  config = mdn_rnn_config.Config()
  work = train_step(config.batch_size, config.window_steps)
  return lambda: work() / config.window_steps


def untrained_model() -> world_model.WorldModel:
  """Returns V and M of the default sizes with random weights."""
  v, m = vae.VAE(), mdn_rnn.MDNRNN()
  key = jax.random.key(0)
  z, action = jnp.zeros((1, 1, _LATENT_SIZE)), jnp.zeros((1, 1, 3))
  return world_model.WorldModel(
    v,
    v.init(key, vae_benchmark.frames(1), key),
    m,
    m.init(key, z, action, m.initial_carry(1)),
  )


def control(batch_size: int) -> contest.Work:
  """Prepares control steps: encode a frame, observe it, act on [z, h]."""
  runtime.prepare()
  model = untrained_model()
  observation = vae_benchmark.frames(batch_size)
  z = jnp.zeros((batch_size, _LATENT_SIZE))
  action = jnp.zeros((batch_size, 3))
  state = world_model.initial_state(model, z)
  num_features = z.shape[-1] + state.carry[1].shape[-1]
  controller = jax.random.normal(jax.random.key(0), (num_features, 3))

  @jax.jit
  def step(model, observation, state, action):
    z = world_model.encode(model, observation).mean
    state = world_model.observe(model, state, action, z)
    inputs = jnp.concatenate([state.z, state.carry[1]], axis=-1)
    return state, jnp.tanh(inputs @ controller)

  def work() -> float:
    nonlocal state, action
    state, action = step(model, observation, state, action)
    np.asarray(action)
    return 1

  return work


def _batch(batch_size: int, window_steps: int) -> loader.Windows:
  rng = np.random.default_rng(0)
  shape = batch_size, window_steps
  return loader.Windows(
    z=rng.standard_normal((*shape, _LATENT_SIZE), np.float32),
    action=rng.standard_normal((*shape, 3), np.float32),
    next_z=rng.standard_normal((*shape, _LATENT_SIZE), np.float32),
    reward=np.zeros(shape, np.float32),
    terminal=np.zeros(shape, bool),
    mask=np.ones(shape, bool),
  )
