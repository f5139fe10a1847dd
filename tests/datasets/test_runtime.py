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


STEPS = {  # The first one configures JAX, which is possible only then.
  'MDN-RNN step': functools.partial(mdn_rnn.train_step, 32, 128),
  'encoder, 64': functools.partial(encoder, 64),
  'encoder, 100': functools.partial(encoder, 100),
  'VAE step': functools.partial(vae.train_step, 100),
}


def faults_of_calls():
  """Returns the minor page faults of a call of each step, on one core."""
  use_one_core()
  return {name: faults_of_a_call(step()) for name, step in STEPS.items()}


def faults_of_a_call(work):
  """Returns the median over some calls."""
  for _ in range(3):
    work()
  faults = []
  for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
  return sorted(faults)[len(faults) // 2]


@pytest.mark.skipif(
  not hasattr(ctypes.CDLL(None), 'mallopt'), reason='needs glibc'
)
def test_memory_is_not_given_back_after_every_step():
  faults = in_new_process(faults_of_calls)
  assert faults.keys() == STEPS.keys()
  assert max(faults.values()) < 500, faults


def programs(cache, cores):
  """Returns a program as text, compiled and then taken from a cache."""
  if cores == 1:
    use_one_core()
  jax.config.update('jax_compilation_cache_dir', cache)
  runtime.prepare()
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  x = jnp.zeros((1000, 1000))
  texts = []
  for _ in range(2):
    program = jax.jit(lambda x: jnp.tanh(x) / 3).lower(x).compile()
    texts.append(program.as_text())
    jax.clear_caches()
  return texts


@pytest.mark.skipif(processes.num_cores() == 1, reason='needs two cores')
def test_programs_of_one_core_are_not_kept_for_more_cores(tmp_path):
  for cores in 1, 2:
    texts = in_new_process(programs, str(tmp_path), cores)
    divided = ['outer_dimension_partitions' in text for text in texts]
    assert divided == [cores == 2] * 2
