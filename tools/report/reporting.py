"""Makes the report of a line of work: (folder) → an HTML page of one file."""

from collections.abc import Iterator, Sequence
import os
from pathlib import Path

from carracing_data import files
from carracing_rollouts import scores
from tools.lineage import ancestry
from tools.lineage import line_of_work
from tools.report import report_blocks
from tools.report import report_data
from tools.report import report_models
from tools.report import report_runs
from tools.showing import webpages

FILE = 'report.html'
_TEMPLATE = Path(__file__).with_name('report.html')


def make(
  folder: Path,
  data_dir: str | None,
  search: Sequence[Path],
  output: Path | None = None,
) -> Path:
  """Makes a report; what is not found is said in it.

  Args:
    folder: see `line_of_work.find`.
    data_dir: see `line_of_work.find`.
    search: see `line_of_work.find`.
    output: HTML file to write; None: `report.html` in the folder.

  Returns:
    The file.

  Raises:
    errors.UserError: the folder holds no work, or the file cannot be written.
  """
  line = line_of_work.find(folder, data_dir, search)
  output = files.claim_file(folder / FILE if output is None else output)
  sections = [
    (title, report_blocks.until_error(blocks))
    for title, blocks in _sections(line)
  ]
  webpages.save(
    output,
    _TEMPLATE,
    name=os.path.basename(os.path.abspath(folder)),
    sections=sections,
  )
  return output


def _sections(
  line: line_of_work.Line,
) -> Iterator[tuple[str, Iterator[report_blocks.Block]]]:
  """Yields titles of sections and what they show."""
  yield 'Overview', _overview(line)
  yield 'Data', report_data.blocks(line)
  if 'vae' in line.parts:
    yield (
      'V, the VAE',
      _joined(report_runs.training(line, 'vae'), report_models.of_v(line)),
    )
  if 'mdn_rnn' in line.parts:
    yield (
      'M, the MDN-RNN',
      _joined(report_runs.training(line, 'mdn_rnn'), report_models.of_m(line)),
    )
  if 'controller' in line.parts:
    yield (
      'C, the controller',
      _joined(
        report_runs.score(line),
        report_runs.training(line, 'controller'),
        report_models.of_c(line),
      ),
    )
  yield 'Lineage', _lineage(line)
  yield 'Settings and versions', report_runs.settings(line)


def _joined(
  *parts: Iterator[report_blocks.Block],
) -> Iterator[report_blocks.Block]:
  """Yields blocks of all parts; an error ends only its own."""
  for part in parts:
    yield from report_blocks.until_error(part)


def _overview(line: line_of_work.Line) -> Iterator[report_blocks.Block]:
  of_agent = [x for x in line.evaluations if x.subject.driver.policy is None]
  if line.newest != line.folder:
    newest = 'newest agent with a score' if of_agent else 'newest work'
    yield report_blocks.Text(
      f'This page follows {_place(line, line.newest)}, the {newest} in the'
      ' folder, back to its data.'
    )
  for found in of_agent:
    yield report_blocks.Text(
      f'Score on {found.subject.tracks} tracks:'
      f' {scores.describe(found.summary)}.'
    )
  yield report_blocks.Table(
    ['', 'facts', 'where'],
    [
      [
        _title(node),
        ', '.join(node.facts),
        _place(line, line.runs.get(part, node.path)),
      ]
      for part, node in line.parts.items()
    ],
  )


def _place(line: line_of_work.Line, path: str | Path | None) -> str:
  """Returns a path, relative to the folder of the report if it is near it."""
  if path is None:
    return 'not found here'
  path, folder = os.path.abspath(path), os.path.abspath(line.folder)
  if path == folder:
    return 'this folder'
  near = Path(path).is_relative_to(os.path.dirname(folder))
  return os.path.relpath(path, folder) if near else path


def _title(node: ancestry.Node) -> str:
  if node.digest is None:
    return node.name
  return f'{node.name} @{node.digest[:12]}'


def _lineage(line: line_of_work.Line) -> Iterator[report_blocks.Block]:
  yield report_blocks.Text(
    'Everything that this was made from, recognised by the digest of its'
    ' content, and the command that made it, if it is recorded.'
  )
  yield report_blocks.Artefacts(
    [
      report_blocks.Artefact(
        anchor=_anchor(node),
        title=_title(node),
        facts=', '.join(node.facts),
        path=_place(line, node.path),
        command=_command(node),
        sources=[(_source(x), _anchor(x)) for x in node.sources],
      )
      for node in line_of_work.walk(line.tree)
      # Drivers without weights are named by what they drove.
      if node is line.tree or node.digest is not None
    ]
  )


def _source(node: ancestry.Node) -> str:
  facts = node.facts if node.digest is None else []
  return ', '.join([_title(node), *facts])


def _command(node: ancestry.Node) -> str:
  if node.command is not None:
    return f'$ {node.command}'
  if node.kind == 'action_log':
    return 'It cannot be made again: keep the file.'
  return ''


def _anchor(node: ancestry.Node) -> str:
  return '' if node.digest is None else f'artefact-{node.digest[:12]}'
