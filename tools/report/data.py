"""The data that V and M were trained on, as a section of a report."""

from collections.abc import Iterator

from carracing_data import errors
from carracing_data import prepared_dataset
from carracing_rollouts import schema
import numpy as np
from tools.lineage import artefacts
from tools.lineage import find
from tools.report import blocks
from tools.showing import rollout_statistics
from tools.showing import webpages

MAX_EPISODES = 100  # Of a split, or of a driver, that are read.
_COLUMNS = 6  # Frames of an episode.


def of_datasets(lineage: find.Lineage) -> Iterator[blocks.Block]:
  """Yields the statistics of all datasets, and a closer look at two of them."""
  if not lineage.rollouts:
    yield blocks.Text('It is not known which rollouts were trained on.')
    return
  rows = []
  for found in lineage.rollouts:
    if found.path is None:
      yield _missing(found)
      continue
    prepared = prepared_dataset.find(found.path, None, schema.KIND)
    rows += [
      [
        prepared.full_name.partition('/')[2],
        *rollout_statistics.split_row(prepared, split),
      ]
      for split in schema.SPLITS
    ]
  if rows:
    yield blocks.Table(
      ['dataset', *rollout_statistics.SPLIT_HEAD],
      rows,
      'What was trained on, oldest first.',
    )
  for path in shown(lineage):
    yield from blocks.until_error(_closer(path))


def shown(lineage: find.Lineage) -> list[str]:
  """Returns the folders of the first and the last dataset that are here."""
  here = [x.path for x in lineage.rollouts if x.path is not None]
  return list(dict.fromkeys([*here[:1], *here[-1:]]))


def _missing(found: artefacts.Artefact) -> blocks.Text:
  facts = ''.join(f', {fact}' for fact in found.facts)
  return blocks.Text(
    f'{found.name} is not found here{facts}; --data_dir says where to look.'
  )


def _closer(path: str) -> Iterator[blocks.Block]:
  prepared = prepared_dataset.find(path, None, schema.KIND)
  found = rollout_statistics.read(prepared, MAX_EPISODES)
  yield blocks.Heading(prepared.full_name)
  last = len(rollout_statistics.SHEET_TITLES) - 1
  columns = np.linspace(0, last, _COLUMNS).astype(int)
  yield blocks.Text('Episodes from start to end, with who drove them:')
  yield blocks.Pictures(
    [
      blocks.strip(frames[columns], f'frames of {title}', title)
      for title, frames in found.sheet.items()
    ]
  )
  sizes = [prepared.splits[split].num_episodes for split in schema.SPLITS]
  of = ''
  if max(sizes) > MAX_EPISODES:
    of = f', in the first {MAX_EPISODES} episodes of each split'
  yield blocks.Table(*found.drivers, f'Who drove{of}.')
  yield blocks.Table(*found.actions, f'What was done{of}.')
  histograms = []
  for title, value in found.values.items():
    drawing, axes = blocks.plot(title)
    rollout_statistics.draw_histogram(axes, title, value)
    url = webpages.drawing(drawing)
    histograms.append(blocks.Picture(url, f'histogram of {title}'))
  yield blocks.Pictures(histograms)


def newest(lineage: find.Lineage) -> str:
  """Returns the folder of the newest dataset, which pictures are made of.

  Raises:
    errors.DatasetError: none is here.
  """
  if not (found := shown(lineage)):
    raise errors.DatasetError('none of the rollouts are found here')
  return found[-1]
