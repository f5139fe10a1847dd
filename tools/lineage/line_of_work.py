"""A line of work: a folder → its newest agent or run, and its sources."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import os
from pathlib import Path
from typing import NamedTuple

from absl import logging
from carracing_data import errors
from models import agent
from models import weights
from tools.driving import track_scores
from tools.lineage import ancestry
from trainers import run_documents

_FILES = (
  'run.json',
  *(
    f'{folder}{weights.FILE}'
    for folder in ('', 'weights/', 'controller/', 'agent/controller/')
  ),
)
_MAX_PARENTS = 4  # From an agent's part up to the folder of a pipeline.


class Line(NamedTuple):
  """A line of work.

  Attributes:
    folder: where it was looked for.
    newest: folder of the agent, run or weights that it leads to.
    tree: the same, with its sources.
    parts: V, M and C as far as it has them, by name, C first.
    runs: folders of the runs that trained the parts, as far as they are found.
    rollouts: the datasets that V and M were trained on, oldest first.
    evaluations: scores of C, and of policies beside it.
  """

  folder: Path
  newest: Path
  tree: ancestry.Node
  parts: Mapping[str, ancestry.Node]
  runs: Mapping[str, Path]
  rollouts: Sequence[ancestry.Node]
  evaluations: Sequence[track_scores.Evaluation]


def find(folder: Path, data_dir: str | None, search: Sequence[Path]) -> Line:
  """Finds a line of work.

  Args:
    folder: folder of an agent, of a run, or of a pipeline, of which the newest
      agent is taken, of those with a score if there are any.
    data_dir: data directory; None: a folder `data` beside the runs, or else
      the default one, see `prepared_dataset.find`.
    search: more folders below which runs and weights may lie.

  Raises:
    errors.UserError: the folder holds none of them, or it is damaged.
  """
  subject = _subject(folder)
  for inside in subject, subject / 'agent':
    for part in agent.PARTS:
      if (inside / part / weights.FILE).exists():
        weights.describe(inside / part)  # Fails if it is damaged.
  if subject == folder:
    parents = folder.absolute().parents
    near = [folder, *parents[:1]]
    if (folder.absolute().parent / 'run.json').exists():  # That made it.
      near += parents[1:2]
  else:
    near = [folder, *sorted(x for x in folder.iterdir() if x.is_dir())]
  near += [x for x in search if x.is_dir()]
  family = ancestry.Family(data_dir or _data_dir(subject), near)
  tree = family.of(os.fspath(subject))
  parts = _parts(tree)
  runs = {}
  for file_folder in ancestry.below(near, 'metrics.json'):
    try:
      metrics = run_documents.finished_metrics(file_folder)
      runs.setdefault(metrics.weights_sha256, file_folder)
    except errors.UserError as error:
      logging.warning('Left out: %s', error)
  found = {
    name: runs[digest]
    for name, node in parts.items()
    for digest in reversed(_digests(node))
    if digest in runs
  }
  if tree.digest is None:  # It is not finished.
    found[tree.kind] = subject
  return Line(
    folder,
    subject,
    tree,
    parts,
    found,
    [x for x in _trained_on(parts) if x.kind == 'carracing_rollouts'],
    list(_evaluations(folder, near, parts)),
  )


def walk(node: ancestry.Node) -> Iterator[ancestry.Node]:
  """Yields a node and all of its sources, each once."""
  seen = set()
  waiting = [node]
  while waiting:
    node = waiting.pop(0)
    key = node.digest or (node.name, *node.facts)
    if key in seen:
      continue
    seen.add(key)
    yield node
    waiting = [*node.sources, *waiting]


def _subject(folder: Path) -> Path:
  """Returns the folder itself, or the newest run of a pipeline in it.

  Runs of C with a score come before others: a pipeline scores the one it chose.
  """
  if any(os.path.exists(folder / file) for file in _FILES):
    return folder
  scored = {_controller(x) for _, x in _read_evaluations([folder])}
  best = None
  for workdir in ancestry.below([folder], 'run.json'):
    try:
      run = run_documents.read_run(workdir)
    except errors.UserError as error:
      logging.warning('Left out: %s', error)
      continue
    if run is not None and run.starts:
      finished = (workdir / 'metrics.json').exists()
      stage = agent.PARTS.index(run.model)
      chosen = finished and _weights_of(workdir) in scored
      order = (stage, finished, chosen, run.starts[-1].time, workdir)
      best = order if best is None else max(best, order)
  if best is None:
    raise run_documents.RunError(
      f'{folder} holds no run and no agent; name the folder of a demo, of a run'
      ' or of an agent'
    )
  return best[-1]


def _weights_of(workdir: Path) -> str | None:
  """Returns the digest of what a run exported, if it can be read."""
  try:
    return run_documents.finished_metrics(workdir).weights_sha256
  except errors.UserError:  # Told when the runs are matched with their weights.
    return None


def _data_dir(folder: Path) -> str | None:
  for parent in [folder, *folder.absolute().parents[:_MAX_PARENTS]]:
    if (parent / 'data' / 'carracing_rollouts').is_dir():
      return os.fspath(parent / 'data')
  return None


def _parts(tree: ancestry.Node) -> dict[str, ancestry.Node]:
  """Returns C, M and V, as far as a tree has them."""
  parts = {tree.kind: tree}
  for name in reversed(agent.PARTS[: agent.PARTS.index(tree.kind)]):
    # M's own V is a source of its data.
    for node in [*tree.sources, *walk(tree)]:
      if node.kind == name:
        parts.setdefault(name, node)
  return parts


def _digests(node: ancestry.Node) -> list[str]:
  """Returns the digests of weights, and of what was rounded to them."""
  rounded = node.sources[:1] if ancestry.ROUNDED in node.facts else []
  return [x.digest for x in [node, *rounded] if x.digest is not None]


def _trained_on(parts: Mapping[str, ancestry.Node]) -> Iterator[ancestry.Node]:
  """Yields all sources of V and M up to those who drove, each once."""
  roots = [parts[name] for name in ('vae', 'mdn_rnn') if name in parts]
  seen = set()
  for root in roots:
    for node in _without_drivers(root):
      if node.digest not in seen:
        seen.add(node.digest)
        yield node


def _without_drivers(node: ancestry.Node) -> Iterator[ancestry.Node]:
  yield node
  if node.kind != 'carracing_rollouts':
    for source in node.sources:
      yield from _without_drivers(source)


def _evaluations(
  root: Path, folders: Iterable[Path], parts: Mapping[str, ancestry.Node]
) -> Iterator[track_scores.Evaluation]:
  """Yields scores of this C, and of policies below `root`."""
  c = parts['controller'].digest if 'controller' in parts else None
  for folder, found in _read_evaluations(folders):
    policy = found.subject.driver.policy
    # C names its V and M, which may have been rounded since.
    if _controller(found) == c:
      yield found
    elif policy is not None and folder.is_relative_to(root):
      yield found


def _read_evaluations(
  folders: Iterable[Path],
) -> Iterator[tuple[Path, track_scores.Evaluation]]:
  for folder in ancestry.below(folders, track_scores.FILE):
    try:
      yield folder, track_scores.read(folder / track_scores.FILE)
    except errors.UserError as error:
      logging.warning('Left out: %s', error)


def _controller(found: track_scores.Evaluation) -> str:
  """Returns the digest of the C that was scored; of a policy an empty text."""
  return (found.subject.driver.agent or {}).get('controller', '')
