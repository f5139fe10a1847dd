"""How cost grows: with the size of the data, with threads, with batches."""

from collections.abc import Callable
import functools
import importlib.util
import multiprocessing
from pathlib import Path
import re
import time

from carracing_rollouts import (
  carracing_rollouts_dataset_builder as rollouts_builder,
)
from tools import markdown
from tools.benchmarks import data
from tools.benchmarks import mdn_rnn
from tools.benchmarks import vae

_EPISODES = 8
_STEPS = 500
_GROWTH = 1, 4, 16
_THREADS = 0, 1, 2, 4, 8
_SECONDS = 5


def tables(output_dir: Path) -> str:
  """Measures how cost grows.

  Args:
    output_dir: gets the datasets, in `data`.

  Returns:
    Tables in Markdown.
  """
  data_dir = output_dir / 'data'
  return '\n\n'.join(
    [_data_growth(data_dir), _thread_growth(data_dir), _batch_growth()]
  )


def _data_growth(data_dir: Path) -> str:
  fast = importlib.util.find_spec('envpool') is not None
  rows = []
  for factor in _GROWTH:
    config = rollouts_builder.RolloutsConfig(
      name=f'benchmark_x{factor}',
      num_episodes=factor * _EPISODES,
      max_steps=_STEPS,
      simulator='envpool' if fast else 'gymnasium',
    )
    builder = rollouts_builder.Builder(data_dir=data_dir, config=config)
    builder.download_and_prepare()
    frames, peak = _in_new_process(
      functools.partial(data.frames, data_dir, name=str(builder.data_dir))
    )
    rows.append(
      [
        f'×{factor}',
        f'{config.num_episodes * (_STEPS + 1):,}',
        f'{frames:,.0f}',
        f'{peak:,.0f}',
      ]
    )
  return markdown.table(
    ['dataset', 'frames in it', 'frames/s', 'peak memory, MiB'], rows
  )


def _thread_growth(data_dir: Path) -> str:
  rows = []
  for threads in _THREADS:
    frames, peak = _in_new_process(
      functools.partial(data.frames, data_dir, num_threads=threads)
    )
    rows.append([threads, f'{frames:,.0f}', f'{peak:,.0f}'])
  return markdown.table(['threads', 'frames/s', 'peak memory, MiB'], rows)


def _batch_growth() -> str:
  steps = [
    *(
      (f'VAE, batch {batch}', functools.partial(vae.compiled_step, batch))
      for batch in (25, 100, 400)
    ),
    *(
      (
        f'MDN-RNN, [{batch}, {steps}]',
        functools.partial(mdn_rnn.compiled_step, batch, steps),
      )
      for batch, steps in (
        (8, 128),
        (32, 128),
        (128, 128),
        (32, 512),
        (32, 1000),
      )
    ),
  ]
  rows = []
  for name, compile_step in steps:
    memory = compile_step().memory_analysis()
    rows.append([name, f'{memory.temp_size_in_bytes / 2**20:,.0f}'])
  return markdown.table(
    ['training step', 'memory beside parameters and batch, MiB'], rows
  )


def _in_new_process(prepare: Callable) -> tuple[float, float]:
  """Returns the rate of some work and the peak memory of doing it, MiB."""
  spawn = multiprocessing.get_context('spawn')
  with spawn.Pool(1) as pool:
    return pool.apply(_measure, (prepare,))


def _measure(prepare: Callable) -> tuple[float, float]:
  work = prepare()
  for _ in range(20):
    work()
  done, started = 0.0, time.perf_counter()
  while (elapsed := time.perf_counter() - started) < _SECONDS:
    done += work()
  return done / elapsed, _peak_memory()


def _peak_memory() -> float:
  """Returns this process's own, MiB; `getrusage` would tell its parent's."""
  status = Path('/proc/self/status').read_text()
  [kilobytes] = re.findall(r'VmHWM:\s+(\d+) kB', status)
  return int(kilobytes) / 1024
