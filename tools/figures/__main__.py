"""Makes the animation and the tables in the documents anew.

  python -m tools.figures

A table that a program makes stands between two comments in a document,
`<!-- NAME -->` and `<!-- end of NAME -->`. This tool replaces what is between
them, films the animation of the README, and takes out of the tour, which
`jupyter execute --inplace docs/tour.ipynb` runs, what differs from run to run.
Run it after a change of what they show: `models/pretrained/evaluation.json`,
which `tools.evaluate` writes, or the tools.
"""

from collections.abc import Callable, Sequence
import json
from pathlib import Path

from absl import logging
from carracing_data import command_line
from carracing_data import errors
from carracing_data import files
from etils import epy
from tools import __main__ as programs

with epy.lazy_imports():
  from carracing_data import runtime
  from carracing_rollouts import scores
  from models import agent
  from tools.driving import track_scores
  from tools.figures import animation
  from tools.showing import markdown

_PROJECT = Path(__file__).parents[2]
ANIMATION = 'docs/pictures/drive.webp'
TOUR = 'docs/tour.ipynb'
_TRACK = 0


def documents() -> dict[Path, str]:
  """Returns the text that each document with tables should have.

  Raises:
    errors.UserError: a document cannot be read or lacks the place of a table,
      or the score of the pretrained agent is missing or damaged.
  """
  return {
    path: _with_tables(path, tables)
    for path, tables in {
      _PROJECT / 'README.md': {'scores': _scores, 'tools': _tools},
      agent.PRETRAINED / 'README.md': {'score': _score},
    }.items()
  }


def _with_tables(path: Path, tables: dict[str, Callable[[], str]]) -> str:
  try:
    text = path.read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as error:
    raise errors.UserError(
      f'cannot read {path}: {error}; restore it with: git checkout -- {path}'
    ) from None
  for name, make in tables.items():
    begin, end = f'<!-- {name} -->', f'<!-- end of {name} -->'
    before, _, rest = text.partition(f'{begin}\n')
    _, found, after = rest.partition(end)
    if not found:
      raise errors.UserError(
        f'{path} has no lines {begin} and {end}, between which a table stands;'
        ' add them'
      )
    text = f'{before}{begin}\n{make()}\n{end}{after}'
  return text


def _scores() -> str:
  """Returns our score beside those of others."""
  summary = _pretrained()
  ha = '[Ha & Schmidhuber 2018](https://arxiv.org/abs/1803.10122)'
  tallec = '[Tallec et al. 2018](https://ctallec.github.io/world-models/)'
  tang = '[Tang et al. 2020](https://arxiv.org/abs/2003.08165)'
  return markdown.table(
    ['', 'return', 'tracks', 'source'],
    [
      [
        '**this project**, the pretrained agent',
        f'**{_return(summary)}**',
        f'{summary.episodes:,}',
        '[models/pretrained](models/pretrained/README.md)',
      ],
      ['World Models, the paper', '906 ± 21', '100', ha],
      ['World Models, run again', '901 ± 37', '100', tang],
      ['World Models in PyTorch', '860 ± 120', '100', tallec],
    ],
  )


def _tools() -> str:
  """Returns a table of the programs for users, a row for each group."""
  return markdown.table(
    ['', ''],
    [
      [title, ', '.join(f'`{name}`' for name in group)]
      for title, group in programs.GROUPS.items()
      if title != programs.MAINTAIN
    ],
  )


def _score() -> str:
  """Returns the score of the pretrained agent."""
  summary = _pretrained()
  head = ['tracks', 'return', 'standard error', 'median', 'least']
  return markdown.table(
    [*head, 'laps completed', 'below 700'],
    [
      [
        f'{summary.episodes:,}',
        _return(summary),
        f'{summary.standard_error:.1f}',
        f'{summary.median:.0f}',
        f'{summary.least:.0f}',
        f'{100 * summary.laps_completed:.1f} %',
        f'{100 * summary.below_700:.1f} %',
      ]
    ],
  )


def _return(summary: 'scores.Summary') -> str:
  return f'{summary.mean:.1f} ± {summary.standard_deviation:.1f}'


def _pretrained() -> 'scores.Summary':
  path = agent.PRETRAINED / track_scores.FILE
  try:
    return track_scores.of_agent(path, agent.PRETRAINED).summary
  except FileNotFoundError:
    raise errors.UserError(
      f'{path} is missing; restore it with: git checkout -- {path}'
    ) from None


def without_traces(notebook: str) -> str:
  """Returns a notebook without times, versions and what went to stderr.

  Args:
    notebook: JSON, as `jupyter execute` writes it.
  """
  content = json.loads(notebook)
  content['metadata']['language_info'] = {'name': 'python'}
  for cell in content['cells']:
    if cell['cell_type'] == 'code':
      cell['metadata'].pop('execution', None)
      cell['outputs'] = [
        x for x in cell['outputs'] if x.get('name') != 'stderr'
      ]
  return (
    json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + '\n'
  )


def main(argv: Sequence[str]) -> None:
  del argv
  logging.info('Making the tables and pictures of the documents anew.')
  runtime.prepare()
  runtime.use_cpu()  # As tools.evaluate, so that the film is the scored drive.
  tour = _PROJECT / TOUR
  texts = {
    **documents(),
    tour: without_traces(tour.read_text(encoding='utf-8')),
  }
  for path, text in texts.items():
    content = text.encode()
    files.replace(path, lambda file, content=content: file.write_bytes(content))
    logging.info('Saved %s', path.relative_to(_PROJECT))
  animation.save(_PROJECT / ANIMATION, agent.load(), _TRACK)
  logging.info('Saved %s', ANIMATION)


if __name__ == '__main__':
  command_line.run(main)
