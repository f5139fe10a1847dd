"""How long it takes from a command to its first training step."""

import os
from pathlib import Path
import shutil
import statistics
import subprocess
import sys
import time

from tools import markdown
from trainers import loop

_RUNS = 3
_TRAINERS = {
  'trainers.train_vae': 'carracing_rollouts/benchmark',
  'trainers.train_mdn_rnn': 'carracing_latents/benchmark',
}


def table(output_dir: Path) -> str:
  """Starts the trainers, first without and then with compiled programs.

  Args:
    output_dir: where `data.make` made `data`.

  Returns:
    A table in Markdown.
  """
  rows = []
  for trainer, dataset in _TRAINERS.items():
    cache = output_dir / 'compilation_cache'
    seconds = {'cold': [], 'warm': []}
    for _ in range(_RUNS):
      shutil.rmtree(cache, ignore_errors=True)
      for kind in seconds:
        seconds[kind].append(_start(trainer, dataset, output_dir, cache))
    rows.append(
      [f'`{trainer}`']
      + [
        f'{statistics.median(s):.1f} ({min(s):.1f} to {max(s):.1f})'
        for s in seconds.values()
      ]
    )
  return markdown.table(
    ['seconds to the first step', 'first start', 'compiled before'], rows
  )


def _start(trainer: str, dataset: str, output_dir: Path, cache: Path) -> float:
  """Returns the seconds until a trainer says that it took the first step."""
  workdir = output_dir / 'start'
  shutil.rmtree(workdir, ignore_errors=True)
  started = time.perf_counter()
  process = subprocess.Popen(
    [
      sys.executable,
      '-m',
      trainer,
      f'--workdir={workdir}',
      f'--data_dir={output_dir / "data"}',
      f'--config.dataset={dataset}',
      '--config.num_steps=100000',
    ],
    env={**os.environ, 'JAX_COMPILATION_CACHE_DIR': str(cache)},
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stderr is not None
  for line in process.stderr:
    if loop.FIRST_STEP in line:
      seconds = time.perf_counter() - started
      process.kill()
      process.wait()
      return seconds
  raise RuntimeError(f'{trainer} took no step')
