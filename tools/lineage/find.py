"""A folder → the agent, run or weights it holds, and all that belongs to them.

The folder of a pipeline stands for the newest agent in it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import os
from pathlib import Path
from typing import NamedTuple

from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
from models import agent
from models import weights
from tools.dream_fidelity import documents
from tools.driving import track_scores
from tools.lineage import artefacts
from tools.lineage import sources
from tools.pipelines import settings
from trainers import run_documents

_FILES = (
  'run.json',
  *(
    f'{folder}{weights.FILE}'
    for folder in ('', 'weights/', 'controller/', 'agent/controller/')
  ),
)
_MAX_PARENTS = 4  # From an agent's part up to the folder of a pipeline.


class Lineage(NamedTuple):
  """An agent, run or weights, and all that belongs to them.

  Attributes:
    folder: where it was looked for.
    newest: folder of the agent, run or weights in it.
    artefact: the same, with its sources.
    parts: V, M and C as far as it has them, by name, C first.
    runs: folders of the runs that trained the parts, as far as they are found.
    rollouts: the datasets that V and M were trained on, oldest first.
    evaluations: scores of C, and of policies beside it.
    fidelities: how well dreams of M rank drivers.
  """

  folder: Path
  newest: Path
  artefact: artefacts.Artefact
  parts: Mapping[str, artefacts.Artefact]
  runs: Mapping[str, Path]
  rollouts: Sequence[artefacts.Artefact]
  evaluations: Sequence[track_scores.Evaluation]
  fidelities: Sequence[documents.Fidelity]


def artefact(
  name: str, data_dir: str | None, search: Sequence[Path]
) -> artefacts.Artefact:
  """Finds what a folder or a dataset was made from.

  Its name is that of a folder or of a dataset, see `prepared_dataset.find`; the
  rest is as in `lineage`.

  Raises:
    errors.UserError: it is none of them, or it is damaged.
  """
  folder = files.expand(name)
  newest = _newest(folder)
  finder = sources.Finder(
    data_dir or (newest and _data_dir(newest)), _near(folder, newest, search)
  )
  try:
    return finder.of(name if newest is None else os.fspath(newest))
  except errors.DatasetError as error:
    if not folder.exists():
      raise
    raise errors.DatasetError(
      f'{folder} holds no run, no agent and no weights, and as a dataset:'
      f' {error}'
    ) from None


def lineage(
  folder: Path, data_dir: str | None, search: Sequence[Path]
) -> Lineage:
  """Finds all that belongs to an agent, a run or weights.

  Args:
    folder: folder of an agent, of a run, of weights, or of a pipeline, of which
      the newest agent is taken, of those with a score if there are any.
    data_dir: data directory; None: a folder `data` beside the runs, or else
      the default one, see `prepared_dataset.find`.
    search: more folders below which runs, weights and scores may lie.

  Raises:
    errors.UserError: the folder holds none of them, or it is damaged.
  """
  newest = _newest(folder)
  if newest is None:
    if not folder.exists():
      raise run_documents.RunError(f'there is no folder {folder}')
    raise run_documents.RunError(
      f'{folder} holds no run and no agent; name the folder of a pipeline, of a'
      ' run or of an agent'
    )
  for inside in newest, newest / 'agent':
    for part in agent.PARTS:
      if (inside / part / weights.FILE).exists():
        weights.describe(inside / part)  # Fails if it is damaged.
  near = _near(folder, newest, search)
  finder = sources.Finder(data_dir or _data_dir(newest), near)
  found = finder.of(os.fspath(newest))
  parts = _parts(found)
  by_digest = {}
  for workdir, metrics in sources.read_below(
    near, 'metrics.json', run_documents.read_metrics
  ):
    if metrics is not None:
      by_digest.setdefault(metrics.weights_sha256, workdir)
  runs = {
    name: by_digest[digest]
    for name, part in parts.items()
    for digest in reversed(_digests(part))
    if digest in by_digest
  }
  if found.digest is None:  # It is not finished.
    runs[found.kind] = newest
  return Lineage(
    folder,
    newest,
    found,
    parts,
    runs,
    _rollouts(parts),
    list(_evaluations(folder, near, parts)),
    list(_fidelities(near, parts)),
  )


def _newest(folder: Path) -> Path | None:
  """Returns the folder itself, or the newest run of a pipeline in it.

  Runs of C with a score come before others: a pipeline scores the one it chose.
  """
  if any((folder / file).exists() for file in _FILES):
    return folder
  scored = {_controller(x) for _, x in _read_evaluations([folder])}
  best = None
  for workdir, run in sources.read_below(
    [folder], 'run.json', run_documents.read_run
  ):
    if run is not None and run.starts:
      finished = (workdir / 'metrics.json').exists()
      stage = agent.PARTS.index(run.model)
      chosen = finished and _weights_of(workdir) in scored
      order = (stage, finished, chosen, run.starts[-1].time, workdir)
      best = order if best is None else max(best, order)
  return None if best is None else best[-1]


def _weights_of(workdir: Path) -> str | None:
  """Returns the digest of what a run exported, if it can be read."""
  try:
    metrics = run_documents.read_metrics(workdir)
  except errors.UserError:  # Told when the runs are matched with their weights.
    return None
  return None if metrics is None else metrics.weights_sha256


def _near(
  folder: Path, newest: Path | None, search: Sequence[Path]
) -> list[Path]:
  """Returns the folders below which sources may lie, the nearest first."""
  parents = folder.absolute().parents
  near = [folder]
  if newest is None or newest == folder:
    made_by_run = (folder.absolute().parent / 'run.json').exists()
    near += parents[: 2 if made_by_run else 1]
  pipelines = [
    x for x in parents[:_MAX_PARENTS] if (x / settings.FILE).exists()
  ]
  for root in [folder, *pipelines, *search]:
    if root.is_dir():
      # Rounds of a pipeline have folders of their own.
      near += [root, *sorted(x for x in root.iterdir() if x.is_dir())]
  return near


def _data_dir(folder: Path) -> str | None:
  for parent in [folder, *folder.absolute().parents[:_MAX_PARENTS]]:
    if (parent / 'data' / 'carracing_rollouts').is_dir():
      return os.fspath(parent / 'data')
  return None


def _parts(found: artefacts.Artefact) -> dict[str, artefacts.Artefact]:
  """Returns C, M and V, as far as they are among an artefact's sources."""
  parts = {found.kind: found}
  for name in reversed(agent.PARTS[: agent.PARTS.index(found.kind)]):
    # M's own V is a source of its data.
    for source in [*found.sources, *artefacts.walk(found)]:
      if source.kind == name:
        parts.setdefault(name, source)
    unknown = artefacts.Artefact(kind=name, name=f'an unknown {name}')
    parts.setdefault(name, unknown)
  return parts


def _digests(part: artefacts.Artefact) -> list[str]:
  """Returns the digests of weights, and of what was rounded to them."""
  rounded = part.sources[:1] if artefacts.ROUNDED in part.facts else []
  return [x.digest for x in [part, *rounded] if x.digest is not None]


def _rollouts(
  parts: Mapping[str, artefacts.Artefact],
) -> list[artefacts.Artefact]:
  """Returns the rollouts that V and M were trained on, each once."""
  waiting = [parts[name] for name in ('vae', 'mdn_rnn') if name in parts]
  found = {}
  while waiting:
    first, *waiting = waiting
    if first.kind == 'carracing_rollouts':
      found.setdefault(first.digest, first)
    else:
      waiting = [*first.sources, *waiting]
  return [*found.values()]


def _evaluations(
  root: Path, folders: Iterable[Path], parts: Mapping[str, artefacts.Artefact]
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


def _fidelities(
  folders: Iterable[Path], parts: Mapping[str, artefacts.Artefact]
) -> Iterator[documents.Fidelity]:
  """Yields how well dreams of this M rank drivers."""
  digests = _digests(parts['mdn_rnn']) if 'mdn_rnn' in parts else []
  for _, found in sources.read_below(
    folders,
    documents.FILE,
    lambda x: json_documents.read(x / documents.FILE, documents.Fidelity),
  ):
    if found.subject.mdn_rnn in digests:
      yield found


def _read_evaluations(
  folders: Iterable[Path],
) -> Iterator[tuple[Path, track_scores.Evaluation]]:
  return sources.read_below(
    folders,
    track_scores.FILE,
    lambda folder: track_scores.read(folder / track_scores.FILE),
  )


def _controller(found: track_scores.Evaluation) -> str:
  """Returns the digest of the C that was scored; of a policy an empty text."""
  return (found.subject.driver.agent or {}).get('controller', '')
