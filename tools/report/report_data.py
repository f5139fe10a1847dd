"""The data of a line of work, as a section of its report."""

from collections.abc import Iterator
import os

from carracing_data import errors
from carracing_data import prepared_dataset
from carracing_rollouts import schema
import numpy as np
from tools.lineage import ancestry
from tools.lineage import line_of_work
from tools.measuring import rollout_statistics
from tools.report import report_blocks
from tools.showing import webpages

MAX_EPISODES = 100  # Of a split, or of a driver, that are read.
_COLUMNS = 6  # Frames of an episode.


def blocks(line: line_of_work.Line) -> Iterator[report_blocks.Block]:
  """Yields the statistics of all datasets, and a closer look at two of them."""
  if not line.rollouts:
    yield report_blocks.Text('It is not known which rollouts were trained on.')
    return
  rows = []
  for node in line.rollouts:
    if node.path is None:
      yield missing(node)
      continue
    prepared = prepared_dataset.find(node.path, None, schema.KIND)
    rows += [
      [
        node.name.partition('/')[2],
        *rollout_statistics.split_row(prepared, split),
      ]
      for split in schema.SPLITS
    ]
  if rows:
    yield report_blocks.Table(
      ['dataset', *rollout_statistics.SPLIT_HEAD],
      rows,
      'What was trained on, oldest first.',
    )
  for path in shown(line):
    yield from report_blocks.until_error(_closer(path))


def shown(line: line_of_work.Line) -> list[str]:
  """Returns the folders of the first and the last dataset that are here."""
  here = [node.path for node in line.rollouts if node.path is not None]
  return list(dict.fromkeys([*here[:1], *here[-1:]]))


def missing(node: ancestry.Node) -> report_blocks.Text:
  """Returns the sentence that says that something is not here."""
  facts = ''.join(f', {fact}' for fact in node.facts)
  return report_blocks.Text(
    f'{node.name} is not found here{facts}; --data_dir and --search say where'
    ' to look.'
  )


def _closer(path: str) -> Iterator[report_blocks.Block]:
  prepared = prepared_dataset.find(path, None, schema.KIND)
  found = rollout_statistics.read(prepared, MAX_EPISODES)
  yield report_blocks.Heading(found.name)
  columns = np.linspace(0, len(found.sheet_titles) - 1, _COLUMNS).astype(int)
  yield report_blocks.Text('Episodes from start to end, with who drove them:')
  yield report_blocks.Pictures(
    [
      report_blocks.strip(frames[columns], f'frames of {title}', title)
      for title, frames in found.sheet.items()
    ]
  )
  sizes = [prepared.splits[split].num_episodes for split in schema.SPLITS]
  of = ''
  if max(sizes) > MAX_EPISODES:
    of = f', in the first {MAX_EPISODES} episodes of each split'
  _, drivers, actions = found.tables
  yield report_blocks.Table(*drivers, f'Who drove{of}.')
  yield report_blocks.Table(*actions, f'What was done{of}.')
  histograms = []
  for title, value in found.values.items():
    drawing, axes = report_blocks.plot(title)
    rollout_statistics.draw_histogram(axes, title, value)
    url = webpages.drawing(drawing)
    histograms.append(report_blocks.Picture(url, f'histogram of {title}'))
  yield report_blocks.Pictures(histograms)


def newest(line: line_of_work.Line) -> str:
  """Returns the folder of the newest dataset, which pictures are made of.

  Raises:
    errors.DatasetError: none is here.
  """
  if not (found := shown(line)):
    raise errors.DatasetError('none of the rollouts are found here')
  return os.fspath(found[-1])
