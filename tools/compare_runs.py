"""Compares finished runs in a Markdown table.

  python -m tools.compare_runs runs/vae_*

Reads the folders of the runs. Prints the settings and the data in which the
runs differ, the steps of the best parameters, and the validation metrics; of
runs that differ in their seeds alone also the mean ± standard deviation.
"""

from collections.abc import Mapping, Sequence
import json
from pathlib import Path
import statistics
import sys
from typing import Any

from absl import logging
from carracing_data import command_line
from carracing_data import files
from tools.showing import markdown
from trainers import run_documents


def compare(workdirs: Sequence[Path]) -> str:
  """Compares runs.

  Args:
    workdirs: folders of finished runs.

  Returns:
    A Markdown table with a row per run: the settings and the data that differ,
    the step of the best parameters, and their validation metrics. Where several
    runs differ in their seeds alone, a row has the mean ± standard deviation
    (n − 1) of their metrics.

  Raises:
    run_documents.RunError: a folder holds no finished run.
  """
  metrics = [run_documents.finished_metrics(workdir) for workdir in workdirs]
  settings = [_settings(workdir) for workdir in workdirs]
  names = _keys(settings)
  differing = [
    name
    for name in names
    if len({json.dumps(run.get(name)) for run in settings}) > 1
  ]
  scalars = _keys([m.validation for m in metrics])
  rows = []
  for workdir, run, metric in zip(workdirs, settings, metrics, strict=True):
    rows.append(
      [
        workdir,
        *(run.get(name, '') for name in differing),
        metric.step,
        *(_round(metric.validation.get(name)) for name in scalars),
      ]
    )
  alike: dict[str, dict[Any, int]] = {}  # The first run of each seed.
  for index, run in enumerate(settings):
    others = json.dumps({**run, 'seed': None}, sort_keys=True)
    group = alike.setdefault(others, {})
    # A copy with an edited config is no other seed.
    counted = {metrics[i].weights_sha256 for i in group.values()}
    if metrics[index].weights_sha256 not in counted:
      group.setdefault(run.get('seed'), index)
  for of_seed in alike.values():
    if len(indices := [*of_seed.values()]) > 1:
      first = {**settings[indices[0]], 'seed': ''}
      validation = [metrics[i].validation for i in indices]
      rows.append(
        [
          f'mean ± sd of {len(indices)} seeds',
          *(first.get(name, '') for name in differing),
          '',
          *(_spread([x.get(name) for x in validation]) for name in scalars),
        ]
      )
  return markdown.table(['run', *differing, 'best step', *scalars], rows)


def _settings(workdir: Path) -> Mapping[str, Any]:
  """Returns the config of a run and the digests of its sources."""
  config = run_documents.read_config(workdir)
  run = run_documents.read_run(workdir)
  if config is None or run is None:
    raise run_documents.RunError(
      f'{workdir} holds no run: config.json or run.json is missing'
    )
  sources = {
    role: f'{source.name} ({next(iter(source.sha256.values()))[:8]})'
    for role, source in run.sources.items()
  }
  return {**run_documents.as_today(config.root, run.model), **sources}


def _keys(mappings: Sequence[Mapping[str, Any]]) -> list[str]:
  """Returns all keys, in order of first appearance."""
  return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _spread(values: Sequence[float | None]) -> str:
  known = [x for x in values if x is not None]
  if len(known) < len(values):
    return ''
  return f'{statistics.mean(known):.4g} ± {statistics.stdev(known):.3g}'


def _round(value: float | None) -> str:
  return '' if value is None else f'{value:.4g}'


def main(argv: Sequence[str]) -> None:
  if len(argv) < 2:
    sys.exit('Error: name the folders of one or more runs')
  logging.info('Comparing %s.', ', '.join(argv[1:]))
  folders = dict.fromkeys(files.expand(folder).resolve() for folder in argv[1:])
  print(compare([*folders]))


if __name__ == '__main__':
  command_line.run(main, takes_arguments=True)
