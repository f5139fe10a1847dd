"""Runs, as parts of a report: curves, scores, settings."""

from collections.abc import Iterator, Mapping
import math

from carracing_rollouts import scores
from models import agent
from models import weights
from tools.driving import track_scores
from tools.lineage import artefacts
from tools.lineage import find
from tools.lineage import sources
from tools.report import blocks
from tools.showing import pictures
from tools.showing import webpages
from trainers import run_documents

_ROLES = ('train', 'validation')
_SPEED = ('examples_per_second', 'input_wait_share')
_WIDE_RANGE = 30  # From which on an axis is logarithmic.


def training(lineage: find.Lineage, part: str) -> Iterator[blocks.Block]:
  """Yields the curves of a part's training and its validation metrics."""
  found = lineage.parts[part]
  if part not in lineage.runs:
    yield blocks.Text(
      f'The run that trained {agent.NAMES[part]} is not found here, so there'
      ' are no curves.'
    )
  else:
    curves = run_documents.read_curves(lineage.runs[part])
    drawn = [*_draw(curves)]
    if drawn:
      yield blocks.Pictures(drawn)
    else:
      yield blocks.Text(
        f'The run that trained {agent.NAMES[part]} has logged too little in'
        f' {run_documents.CURVES} for curves.'
      )
  if found.path is None:
    yield blocks.Text(
      f'The run of {found.name} is not finished: there are no weights yet.'
      if artefacts.UNFINISHED in found.facts
      else f'The weights of {found.name} are not found here.'
    )
    return
  trained = weights.describe(found.path).training
  metrics = trained.get('validation')
  if isinstance(metrics, dict) and metrics:
    of_c = ', on selection tracks' if part == 'controller' else ''
    yield blocks.Table(
      ['metric', 'value'],
      [[name, _number(value)] for name, value in metrics.items()],
      f'Validation of these weights, of step {trained.get("step")}{of_c}.',
    )


def _number(value: float) -> str:
  return f'{value:,.0f}' if float(value).is_integer() else f'{value:.4g}'


def _draw(curves: run_documents.Curves) -> Iterator[blocks.Picture]:
  """Yields a drawing of each metric beside its baselines."""
  # What is also validated comes first.
  tags = sorted(curves, key=lambda tag: not tag.startswith('validation/'))
  names = dict.fromkeys(tag.partition('/')[2] for tag in tags)
  # `nll_floor` and `nll_51_200` belong to `nll`.
  groups: dict[str, list[str]] = {}
  shown = [x for x in names if x not in _SPEED and not x.startswith('share_')]
  for name in sorted(shown, key=len):
    stem = next((x for x in groups if name.startswith(f'{x}_')), name)
    groups.setdefault(stem, []).append(name)
  for stem in (name for name in names if name in groups):
    lines = {
      f'{role}: {name}' if name != stem else role: curves[f'{role}/{name}']
      for name in groups[stem]
      for role in _ROLES
      if f'{role}/{name}' in curves
    }
    # Single points and constants are in the table of metrics.
    if any(len({*points.values()}) > 1 for points in lines.values()):
      yield _panel(stem, lines)


def _panel(
  title: str, lines: Mapping[str, Mapping[int, float]]
) -> blocks.Picture:
  drawing, axes = blocks.plot(title)
  for label, points in lines.items():
    steps, values = zip(*sorted(points.items()))
    train = label == 'train'
    axes.plot(
      steps,
      values,
      label=label.removeprefix('validation: '),
      linewidth=1,
      marker='' if train else 'o',
      markersize=3,
      color='tab:gray' if train else None,
    )
  shown = [
    value
    for points in lines.values()
    for value in points.values()
    if math.isfinite(value)
  ]
  if shown and min(shown) > 0 and max(shown) > _WIDE_RANGE * min(shown):
    axes.set_yscale('log')
  axes.set_xlabel('step', fontsize=8)
  axes.legend(frameon=False, fontsize=7)
  return blocks.Picture(
    webpages.drawing(drawing), f'curve of {title} by training step'
  )


def score(lineage: find.Lineage) -> Iterator[blocks.Block]:
  """Yields the scores of the agent, beside those of policies."""
  own = [x for x in lineage.evaluations if x.subject.driver.policy is None]
  if not own:
    yield blocks.Text(
      'No score of this agent is found here; python -m tools.evaluate computes'
      ' one.'
    )
    return
  sets = {found.subject.tracks for found in own}
  yield blocks.Table(
    ['driver', 'tracks', 'score'],
    [
      [
        found.subject.driver.policy or 'this agent',
        found.subject.tracks,
        scores.describe(found.summary),
      ]
      for found in sorted(
        lineage.evaluations, key=lambda x: x.subject.driver.policy or ''
      )
      if found.subject.tracks in sets
    ],
    'Returns on tracks that were not trained on, in the stock game.',
  )
  yield blocks.Pictures(
    [_returns(found) for found in own],
    width=500,
  )


def _returns(found: track_scores.Evaluation) -> blocks.Picture:
  title = f'{found.summary.episodes} {found.subject.tracks} tracks'
  drawing = pictures.plot_returns(
    [drive.return_ for drive in found.drives],
    [drive.completed for drive in found.drives],
    title,
    'tracks',
    blocks.PLOT_INCHES,
  )
  return blocks.Picture(
    webpages.drawing(drawing),
    f'histogram of returns on {title}, mean {found.summary.mean:.1f}',
  )


def settings(lineage: find.Lineage) -> Iterator[blocks.Block]:
  """Yields the configs of the runs, and what they ran on."""
  if not lineage.runs:
    yield blocks.Text(
      'No run is found here. The commands above contain the settings.'
    )
  columns = {}
  for part, workdir in lineage.runs.items():
    config = run_documents.read_config(workdir)
    if config is not None:
      yield blocks.Table(
        [f'config of {agent.NAMES[part]}', ''],
        [[key, str(value)] for key, value in config.root.items()],
      )
    run = run_documents.read_run(workdir)
    if run is not None and run.starts:
      last = run.starts[-1]
      columns[agent.NAMES[part]] = {
        'started': last.time,
        'starts': str(len(run.starts)),
        'code': sources.short_revision(last.git_revision),
        'platform': last.platform,
        'device': f'{last.devices} × {last.device}',
        'Python': last.python,
        **last.packages,
      }
  if not columns:
    return
  names = dict.fromkeys(name for column in columns.values() for name in column)
  yield blocks.Table(
    ['', *columns],
    [[x, *(column.get(x, '') for column in columns.values())] for x in names],
    'The last start of each run.',
  )
