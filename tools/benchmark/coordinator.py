"""Measures the process that collects the shards of a huge build.

  python -m tools.benchmark.coordinator --shards=1000 --episodes_per_shard=700

Writes records of shards whose files are empty, and lets a builder collect them,
as if workers had written them. Prints its time, its memory and the size of the
metadata.
"""

from collections.abc import Sequence
import json
from pathlib import Path
import resource
import tempfile
import time
from typing import Any

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import digests
from carracing_data import json_documents
from carracing_data import progress
from carracing_data import rlds_steps
from carracing_data import shards
from carracing_rollouts import schema

_SHARDS = flags.DEFINE_integer(
  'shards', 1000, 'Number of shards.', lower_bound=2
)
_EPISODES = flags.DEFINE_integer(
  'episodes_per_shard', 700, 'Number of episodes of a shard.', lower_bound=1
)
_STEPS = 1001


def _write_records(jobs: Sequence[shards.Job], num_episodes: int) -> None:
  """Writes an empty file and its record for each job."""
  num_records = num_episodes * schema.count_segments(_STEPS)
  written = shards.WrittenShard(
    num_examples=num_records,
    num_bytes=num_records,
    file_sha256=digests.of_bytes(b''),
    record_digests=[digests.of_bytes(b'record')] * num_records,
    episodes=[rlds_steps.Summary(_STEPS, 1.0, False)] * num_episodes,
  )
  for job in progress.each(jobs, 'fake records', 'shards'):
    job.path.touch()
    job.path.with_name(job.name + shards.RECORD).write_text(
      json.dumps(job.sealed(written)), encoding='utf-8'
    )


def _never(write: Any) -> list[rlds_steps.Summary]:
  """Stands where a job writes its shard; all shards are there already."""
  raise AssertionError('a shard was written again')


def main(argv: Sequence[str]) -> None:
  del argv
  num_shards = _SHARDS.value
  logging.info('Collecting the records of %d shards.', num_shards)
  with tempfile.TemporaryDirectory() as folder:
    dataset, staging = Path(folder, 'dataset'), Path(folder, 'staging')
    dataset.mkdir()
    staging.mkdir()
    jobs = [
      shards.Job(f'train-{i:07d}', _never, None, str(staging))
      for i in range(num_shards)
    ]
    before = _peak_megabytes()
    _write_records(jobs, _EPISODES.value)
    started = time.monotonic()
    collected = shards.collect(jobs, [dataset / job.name for job in jobs])
    seconds = time.monotonic() - started
    path = Path(folder, 'metadata.json')
    json_documents.write(path, collected._asdict())
    print(
      f'{num_shards:,} shards, {collected.metadata["num_episodes"]:,} episodes:'
      f' {seconds:.1f} s, {_peak_megabytes() - before:,.0f} MB of memory on top'
      f' of {before:,.0f} MB, metadata.json {path.stat().st_size / 1e6:,.1f} MB'
    )


def _peak_megabytes() -> float:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == '__main__':
  command_line.run(main)
