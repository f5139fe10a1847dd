"""How long the shortest run takes, from the command to exported weights."""

import os
from pathlib import Path
import shutil
import statistics
import subprocess
import sys
import time

from tools import markdown

_RUNS = 3
_TRAINERS = {
  'trainers.train_vae': 'carracing_rollouts/benchmark',
  'trainers.train_mdn_rnn': 'carracing_latents/benchmark',
}


def table(output_dir: Path) -> str:
  """Trains for one step, first without and then with compiled programs.

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
        seconds[kind].append(_run(trainer, dataset, output_dir, cache))
    rows.append(
      [f'`{trainer}`']
      + [
        f'{statistics.median(s):.1f} ({min(s):.1f} to {max(s):.1f})'
        for s in seconds.values()
      ]
    )
  return markdown.table(
    ['seconds of a run of one step', 'first start', 'compiled before'], rows
  )


def _run(trainer: str, dataset: str, output_dir: Path, cache: Path) -> float:
  """Returns the seconds of a run of one step."""
  workdir = output_dir / 'start'
  shutil.rmtree(workdir, ignore_errors=True)
  started = time.perf_counter()
  subprocess.run(
    [
      sys.executable,
      '-m',
      trainer,
      f'--workdir={workdir}',
      f'--data_dir={output_dir / "data"}',
      f'--config.dataset={dataset}',
      '--config.num_steps=1',
    ],
    env={**os.environ, 'JAX_COMPILATION_CACHE_DIR': str(cache)},
    stderr=subprocess.DEVNULL,
    check=True,
  )
  return time.perf_counter() - started
