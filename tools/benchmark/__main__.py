"""Compares the speed of this project with that of its alternatives.

  python -m tools.benchmark --output_dir=benchmark

Generates the data that the stages read. In each stage the contenders take
turns, and the results are the ratios of their rates. PyTorch and
stable-baselines3 take part if they are installed, as the extra `torch`.
Writes benchmark.md and benchmark.json to the output directory.
"""

from collections.abc import Mapping, Sequence
import importlib.metadata
from pathlib import Path
import platform
import statistics

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
from carracing_data import processes
from etils import epy
from tools.showing import markdown

with epy.lazy_imports():
  import jax
  from tools.benchmark import contest
  from tools.benchmark import control
  from tools.benchmark import dreaming
  from tools.benchmark import loaders
  from tools.benchmark import mdn_rnn
  from tools.benchmark import page
  from tools.benchmark import simulator
  from tools.benchmark import vae

_PACKAGES = (
  'jax jaxlib flax grain gymnasium numpy torch stable_baselines3'.split()
)
_OUTPUT_DIR = command_line.output_dir_flag('benchmark')
_ONLY = flags.DEFINE_list(
  'only', [], 'Names of the stages to measure; by default all.'
)
_ROUNDS = flags.DEFINE_integer(
  'rounds', 5, 'Number of turns of each contender.', lower_bound=1
)
_SECONDS = flags.DEFINE_float(
  'seconds',
  2,
  'Minimum length of a turn, in seconds.',
  lower_bound=0,
  upper_bound=3600,
)


def benchmark(
  output_dir: Path, only: Sequence[str], rounds: int, seconds: float
) -> str:
  """Measures stages, all if `only` is empty; returns the results in Markdown.

  The output directory holds the data and the results. Each contender takes
  `rounds` turns, of at least `seconds` each.

  Raises:
    errors.UserError: there is no such stage.
  """
  data_dir = output_dir / 'data'
  stages = {
    stage.name: stage
    for module in (loaders, simulator, vae, mdn_rnn, control, dreaming, page)
    for stage in module.stages(data_dir)
  }
  unknown = set(only) - stages.keys()
  if unknown:
    raise errors.UserError(
      f'there is no stage {", ".join(sorted(unknown))}; the stages are'
      f' {", ".join(stages)}'
    )
  files.claim_folder(data_dir)
  machine = _machine()
  results, report = {}, ''
  for name in only or stages:
    logging.info('Measuring %s.', name)
    results[name] = contest.run(stages[name], rounds, seconds)
    report = '\n\n'.join(
      [
        ', '.join(f'{key} {value}' for key, value in machine.items()),
        _ratios([(stages[name], rates) for name, rates in results.items()]),
      ]
    )
    # Written after each stage, so that an interruption loses only one stage.
    files.replace_text(output_dir / 'benchmark.md', report + '\n')
    json_documents.write(
      output_dir / 'benchmark.json', {'machine': machine, 'rates': results}
    )
  return report


def _ratios(
  results: 'Sequence[tuple[contest.Stage, Mapping[str, Sequence[float]]]]',
) -> str:
  """Returns a table of our rates and their ratios to the other rates."""
  rows = []
  for stage, rates in results:
    ours = rates[stage.contenders[0].name]
    head = [stage.title, f'{_rounded(statistics.median(ours))} {stage.unit}/s']
    for contender in stage.contenders[1:]:
      theirs = rates[contender.name]
      figures = ['not installed', '']
      if theirs:
        median, lowest, highest = contest.ratios(ours, theirs)
        figures = [
          _rounded(statistics.median(theirs)),
          f'**{median:.3g}** ({lowest:.3g} to {highest:.3g})',
        ]
      rows.append([*head, contender.name, *figures])
      head = ['', '']
  head = ['stage', 'ours', 'against', 'theirs', 'ratio (range)']
  return markdown.table(head, rows)


def _rounded(rate: float) -> str:
  """Returns three significant digits, with commas: `77,400`."""
  rounded = float(f'{rate:.3g}')
  return f'{rounded:,.0f}' if rounded >= 100 else f'{rounded:g}'


def _machine() -> dict[str, str]:
  """Describes the machine and the packages that are installed."""
  installed = {x.name: x.version for x in importlib.metadata.distributions()}
  return {
    'platform': platform.machine(),
    'cores': str(processes.num_cores()),
    'device': jax.devices()[0].device_kind,
    'Python': platform.python_version(),
    **{name: installed[name] for name in _PACKAGES if name in installed},
  }


def main(argv: Sequence[str]) -> None:
  del argv
  stages = ', '.join(_ONLY.value) or 'all stages'
  logging.info('Measuring %s, into %s.', stages, _OUTPUT_DIR.value)
  print(
    benchmark(
      files.expand(_OUTPUT_DIR.value).absolute(),
      _ONLY.value,
      _ROUNDS.value,
      _SECONDS.value,
    )
  )


if __name__ == '__main__':
  command_line.run(main)
