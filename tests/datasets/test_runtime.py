import concurrent.futures
import ctypes
import functools
import multiprocessing
import os
import resource

from carracing_data import processes
from carracing_data import runtime
import jax
import jax.numpy as jnp
from models import vae as vae_lib
from models import world_model
import pytest
from tools.benchmark import mdn_rnn
from tools.benchmark import vae


def encoder(batch_size):
  runtime.prepare()
  v, key = vae_lib.VAE(), jax.random.key(0)
  frames = vae.frames(batch_size)
  model = world_model.WorldModel(v, v.init(key, frames[:1], key))
  encode = jax.jit(world_model.encode)
  return lambda: jax.block_until_ready(encode(model, frames))


def use_one_core():
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def in_new_process(function, *arguments):
  spawn = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(1, spawn) as new_process:
    return new_process.submit(function, *arguments).result()


def faults_of_a_call(prepare):
  """Returns the median of the minor page faults of a call, on one core."""
  use_one_core()
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
  assert in_new_process(faults_of_a_call, prepare) < 500


def program(cache, cores):
  """Returns a compiled program as text, kept in and taken from a cache."""
  if cores == 1:
    use_one_core()
  jax.config.update('jax_compilation_cache_dir', cache)
  runtime.prepare()
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  x = jnp.zeros((1000, 1000))
  return jax.jit(lambda x: jnp.tanh(x) / 3).lower(x).compile().as_text()


@pytest.mark.skipif(processes.num_cores() == 1, reason='needs two cores')
def test_programs_of_one_core_are_not_kept_for_more_cores(tmp_path):
  texts = [in_new_process(program, str(tmp_path), cores) for cores in (1, 2, 2)]
  assert ['outer_dimension_partitions' in text for text in texts] == [
    False,
    True,
    True,
  ]
