"""Measures how the cost of loading grows with the size of the dataset."""

from collections.abc import Callable
import functools
import multiprocessing
from pathlib import Path
import re
import time

from carracing_rollouts import (
  carracing_rollouts_dataset_builder as rollouts_builder,
)
from tools import markdown
from tools.benchmarks import data

_EPISODES = 8
_STEPS = 500
_GROWTH = 1, 4, 16
_SECONDS = 5


def table(output_dir: Path) -> str:
  """Loads frames from datasets of growing size.

  Args:
    output_dir: output directory; the datasets go to `data` in it.

  Returns:
    A table in Markdown.
  """
  data_dir = output_dir / 'data'
  rows = []
  for factor in _GROWTH:
    config = rollouts_builder.RolloutsConfig(
      name=f'benchmark_x{factor}',
      num_episodes=factor * _EPISODES,
      max_steps=_STEPS,
      simulator='sketched',
    )
    builder = rollouts_builder.Builder(data_dir=data_dir, config=config)
    builder.download_and_prepare()
    prepare = functools.partial(
      data.frames, data_dir, name=str(builder.data_dir)
    )
    with multiprocessing.get_context('spawn').Pool(1) as pool:
      frames, peak = pool.apply(_measure, (prepare,))
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


def _measure(prepare: Callable) -> tuple[float, float]:
  """Returns the rate of the work and the peak memory of its process, MiB."""
  work = prepare()
  for _ in range(20):
    work()
  done, started = 0.0, time.perf_counter()
  while (elapsed := time.perf_counter() - started) < _SECONDS:
    done += work()
  return done / elapsed, _peak_memory()


def _peak_memory() -> float:
  """Returns the peak memory of this process, MiB.

  `getrusage` would return the peak of the parent process.
  """
  status = Path('/proc/self/status').read_text()
  [kilobytes] = re.findall(r'VmHWM:\s+(\d+) kB', status)
  return int(kilobytes) / 1024
