"""Stages of C: driving to gain experience, and updates of actor and critics."""

import functools
from pathlib import Path
import sys

from carracing_data import processes
from carracing_data import runtime
import jax
from models import controller
import numpy as np
from tools.benchmark import contest
from tools.benchmark import mdn_rnn
from trainers.configs import controller as controller_config
from trainers.control import actor_critic
from trainers.control import actor_critic_learner
from trainers.control import privileged_observations
from trainers.control import replay_buffer

_C = controller.Controller()
_NUM_FEATURES = _C.latent_size + _C.hidden_size


def stages(data_dir: Path) -> list[contest.Stage]:
  """Returns the stages of C."""
  del data_dir
  config = controller_config.Config()
  return [
    contest.Stage(
      'drive',
      'driving to train C, without updates, all cores',
      'steps',
      [
        contest.Contender('ours', drive, (config,)),
        contest.Contender(
          'a process per core: stock CarRacing-v3, PyTorch, batch 1',
          'pytorch_control:drive',
          ('stock',),
        ),
        contest.Contender(
          'the same with `sketched`', 'pytorch_control:drive', ('sketched',)
        ),
      ],
    ),
    contest.Stage(
      'actor_critic',
      f'soft actor-critic, batch {config.batch_size}, float32',
      'updates',
      [
        contest.Contender('ours', update, (config,)),
        contest.Contender(
          'PyTorch, one thread', 'pytorch_control:updates', (config, 1)
        ),
        contest.Contender(
          'PyTorch, all cores',
          'pytorch_control:updates',
          (config, processes.num_cores()),
        ),
        contest.Contender(
          'stable-baselines3, all cores, critics on [z, h]',
          'stable_baselines3_sac:updates',
          (config, _NUM_FEATURES),
        ),
      ],
    ),
  ]


def drive(config: controller_config.Config) -> contest.Work:
  """Prepares driving as the trainer does it, new tracks included.

  The work is to drive from one checkpoint to the next one.
  """
  runtime.prepare()
  steps = config.checkpoint_every_steps
  # Learning never starts.
  config = config.model_copy(update={'warmup_steps': sys.maxsize})
  learner = actor_critic_learner.ActorCriticLearner(
    config, mdn_rnn.untrained_model(), _C
  )
  step = 0

  def work() -> float:
    nonlocal step
    learner.begin(step)
    for _ in range(steps):
      step += 1
      learner.take_step(step)
    return steps * learner.examples_per_step

  return work


def update(config: controller_config.Config) -> contest.Work:
  """Prepares the updates of a step of the trainer, always the same batches."""
  runtime.prepare()
  state = actor_critic.create(
    config, _NUM_FEATURES, privileged_observations.SIZE
  )
  return contest.repeat(
    functools.partial(actor_critic.update, config),
    state,
    batches(config),
    config.updates_per_step,
  )


def batches(config: controller_config.Config) -> replay_buffer.Batch:
  """Returns random batches for a step of the trainer, [U, B, ...]."""
  rng = np.random.default_rng(0)
  shape = config.updates_per_step, config.batch_size
  discount = config.discount**config.return_steps

  def normal(*size: int) -> np.ndarray:
    return rng.standard_normal((*shape, *size), np.float32)

  batch = replay_buffer.Batch(
    features=normal(_NUM_FEATURES),
    privileged=normal(privileged_observations.SIZE),
    action=np.tanh(normal(controller.ACTION_SIZE)),
    reward=normal(),
    discount=np.full(shape, discount, np.float32),
    next_features=normal(_NUM_FEATURES),
    next_privileged=normal(privileged_observations.SIZE),
    weight=np.ones(shape, np.float32),
  )
  # Vectors are float16, as in the replay buffer.
  return jax.tree.map(
    lambda x: x.astype(np.float16) if x.ndim > 2 else x, batch
  )
