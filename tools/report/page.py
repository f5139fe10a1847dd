"""Makes a report: the folder of an agent, ... → an HTML page of one file."""

from collections.abc import Iterator, Sequence
import itertools
import os
from pathlib import Path

from carracing_data import files
from carracing_rollouts import scores
from tools.lineage import artefacts
from tools.lineage import find
from tools.report import blocks
from tools.report import data
from tools.report import models
from tools.report import runs
from tools.showing import webpages

FILE = 'report.html'
_TEMPLATE = Path(__file__).with_name('report.html')


def make(
  folder: Path,
  data_dir: str | None,
  search: Sequence[Path],
  output: Path | None = None,
) -> Path:
  """Makes a report, by default `report.html` in the folder; returns the file.

  What is not found is said in it. The first arguments are of `find.lineage`.

  Raises:
    errors.UserError: the folder holds no work, or the file cannot be written.
  """
  lineage = find.lineage(folder, data_dir, search)
  output = files.claim_file(
    folder / FILE if output is None else output, webpages.BEGINS
  )
  sections = [
    (title, blocks.until_error(shown)) for title, shown in _sections(lineage)
  ]
  webpages.save(
    output,
    _TEMPLATE,
    name=os.path.basename(os.path.abspath(folder)),
    sections=sections,
  )
  return output


def _sections(
  lineage: find.Lineage,
) -> Iterator[tuple[str, Iterator[blocks.Block]]]:
  """Yields titles of sections and what they show."""
  yield 'Overview', _overview(lineage)
  yield 'Data', data.of_datasets(lineage)
  for part, title, *shown in (
    ('vae', 'V, the VAE', runs.training(lineage, 'vae'), models.of_v(lineage)),
    (
      'mdn_rnn',
      'M, the MDN-RNN',
      runs.training(lineage, 'mdn_rnn'),
      models.of_m(lineage),
      models.of_fidelity(lineage),
    ),
    (
      'controller',
      'C, the controller',
      runs.score(lineage),
      runs.training(lineage, 'controller'),
      models.of_c(lineage),
    ),
  ):
    if part in lineage.parts:
      # An error ends only its own part.
      yield title, itertools.chain.from_iterable(map(blocks.until_error, shown))
  yield 'Lineage', _lineage(lineage)
  yield 'Settings and versions', runs.settings(lineage)


def _overview(lineage: find.Lineage) -> Iterator[blocks.Block]:
  of_agent = [x for x in lineage.evaluations if x.subject.driver.policy is None]
  if lineage.newest != lineage.folder:
    newest = 'newest agent with a score' if of_agent else 'newest work'
    yield blocks.Text(
      f'This page follows {_place(lineage, lineage.newest)}, the {newest} in'
      ' the folder, back to its data.'
    )
  for found in of_agent:
    yield blocks.Text(
      f'Score on {found.subject.tracks} tracks:'
      f' {scores.describe(found.summary)}.'
    )
  yield blocks.Table(
    ['', 'facts', 'where'],
    [
      [
        found.title,
        ', '.join(found.facts),
        _place(lineage, lineage.runs.get(part, found.path)),
      ]
      for part, found in lineage.parts.items()
    ],
  )


def _place(lineage: find.Lineage, path: str | Path | None) -> str:
  """Returns a path, relative to the folder of the report if it is near it."""
  if path is None:
    return 'not found here'
  path, folder = os.path.abspath(path), os.path.abspath(lineage.folder)
  if path == folder:
    return 'this folder'
  near = Path(path).is_relative_to(os.path.dirname(folder))
  return os.path.relpath(path, folder) if near else path


def _lineage(lineage: find.Lineage) -> Iterator[blocks.Block]:
  yield blocks.Text(
    'Everything that this was made from, recognised by the digest of its'
    ' content, and the command that made it, if it is recorded.'
  )
  yield blocks.Artefacts(
    [
      (found, _place(lineage, found.path))
      for found in artefacts.walk(lineage.artefact)
      # Drivers without weights are named by what they drove.
      if found is lineage.artefact or found.digest is not None
    ]
  )
