import concurrent.futures
import ctypes
import functools
import multiprocessing
import os
import resource

from carracing_data import runtime
import jax
from models import vae as vae_lib
from models import world_model
import pytest
from tools.benchmarks import mdn_rnn
from tools.benchmarks import vae


def encoder(batch_size):
  runtime.prepare()
  v, key = vae_lib.VAE(), jax.random.key(0)
  frames = vae.frames(batch_size)
  model = world_model.WorldModel(v, v.init(key, frames[:1], key))
  encode = jax.jit(world_model.encode)
  return lambda: jax.block_until_ready(encode(model, frames))


def faults_of_a_call(prepare):
  """Returns the median of the minor page faults of a call, on one core."""
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  work = prepare()
  for _ in range(5):
    work()
  faults = []
  for _ in range(9):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
  return sorted(faults)[len(faults) // 2]


@pytest.mark.parametrize(
  'prepare',
  [
    functools.partial(encoder, 64),
    functools.partial(encoder, 100),
    functools.partial(vae.train_step, 100),
    functools.partial(mdn_rnn.train_step, 32, 128),
  ],
  ids=['encoder, 64', 'encoder, 100', 'VAE step', 'MDN-RNN step'],
)
@pytest.mark.skipif(
  not hasattr(ctypes.CDLL(None), 'mallopt'), reason='needs glibc'
)
def test_memory_is_not_given_back_after_every_step(prepare):
  spawn = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(1, spawn) as new_process:
    assert new_process.submit(faults_of_a_call, prepare).result() < 500
