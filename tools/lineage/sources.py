"""What an artefact was made from: its folder → the tree of its sources.

Everything is read from the documents that builds and trainers leave. A source
is recognised by its content, so a file of the same name is not taken for it.
Rounded weights stand in for the original ones that they name, if these are not
found, and say so.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import os
from pathlib import Path
import shlex
from typing import Any, TypeVar

from absl import logging
from carracing_data import digests
from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
from carracing_data import prepared_dataset
from carracing_latents import schema as latents_schema
from carracing_rollouts import action_log
from carracing_rollouts import schema
from models import agent
from models import weights
import pydantic
from tools.lineage import artefacts
from trainers import run_documents

_Document = TypeVar('_Document')
_NO_WEIGHTS = 'finished, but its weights are not here'


class _Training(pydantic.BaseModel):
  """What the description of weights says of their training."""

  model_config = pydantic.ConfigDict(strict=True, allow_inf_nan=False)

  step: int | None = None
  validation: dict[str, float] = {}
  sources: dict[json_documents.Name, run_documents.Source] = {}
  command: str | None = None
  git_revision: str | None = None
  rounded_from: json_documents.Sha256 | None = None


class Finder:
  """Finds the sources of artefacts on this machine."""

  def __init__(self, data_dir: str | None, search: Sequence[Path]):
    """Remembers where to look.

    Args:
      data_dir: data directory of the datasets; see `prepared_dataset.find`.
      search: folders below which exported weights may lie.
    """
    self._data_dir = data_dir
    self._weights: dict[str, Path] = {}
    self._rounded: dict[tuple[str, str], Path] = {}
    self._known: dict[str, artefacts.Artefact] = {}
    for path, described in read_below(search, weights.FILE, weights.describe):
      self._weights.setdefault(described.weights_sha256, path)
      # Rounded weights stand for those that others name as their source.
      original = described.training.get('rounded_from')
      if isinstance(original, str):
        self._rounded.setdefault((described.model, original), path)

  def of(self, name: str) -> artefacts.Artefact:
    """Returns the tree of a folder of weights, an agent, a run or a dataset.

    Args:
      name: folder, or name of a dataset as `prepared_dataset.find` takes it.

    Raises:
      errors.UserError: it is none of them, or it is damaged.
    """
    folder = files.expand(name)
    for inside in ('', 'controller', 'agent/controller', 'weights'):
      if (folder / inside / weights.FILE).exists():
        return self._of_weights(folder / inside)
    if (run := run_documents.read_run(folder)) is not None:
      state = artefacts.UNFINISHED
      with contextlib.suppress(errors.UserError):
        run_documents.finished_metrics(folder)
        state = _NO_WEIGHTS
      return artefacts.Artefact(
        kind=run.model,
        name=_name(run.model),
        facts=[state],
        sources=list(self._sources(_Training(sources=run.sources))),
      )
    return self._of_dataset(name, None)

  def _of_weights(self, folder: Path) -> artefacts.Artefact:
    described = weights.describe(folder)
    sha256 = described.weights_sha256
    if sha256 in self._known:
      return self._known[sha256]
    try:
      training = _Training.model_validate(described.training)
    except pydantic.ValidationError as error:
      raise errors.DocumentError(
        f'{folder} is damaged: training: {json_documents.explain(error)}'
      ) from None
    found = artefacts.Artefact(
      kind=described.model,
      name=_name(described.model),
      digest=sha256,
      path=os.fspath(folder),
      facts=list(_facts_of_weights(training)),
      command=training.command,
    )
    # While its sources are looked up: weights may name themselves.
    self._known[sha256] = found
    if training.rounded_from is None:
      found = dataclasses.replace(found, sources=[*self._sources(training)])
    else:
      original = self._original(found, training, training.rounded_from)
      # The command is that of the original weights.
      found = dataclasses.replace(
        found, facts=[artefacts.ROUNDED], command=None, sources=[original]
      )
    self._known[sha256] = found
    return found

  def _original(
    self, rounded: artefacts.Artefact, training: _Training, sha256: str
  ) -> artefacts.Artefact:
    """Returns the weights that were rounded, as far as they are known."""
    if sha256 in self._weights:
      return self._of_weights(self._weights[sha256])
    return dataclasses.replace(
      rounded,
      digest=sha256,
      path=None,
      sources=list(self._sources(training)),
    )

  def _sources(self, training: _Training) -> Iterator[artefacts.Artefact]:
    """Yields the sources of a run by role, so M before V."""
    for _, source in sorted(training.sources.items()):
      if 'weights' not in source.sha256:
        yield self._of_dataset(source.name, source.sha256)
      elif source.name in agent.NAMES:
        yield self._weights_with(source.name, source.sha256['weights'])

  def _weights_with(self, kind: str, sha256: str) -> artefacts.Artefact:
    path = self._weights.get(sha256, self._rounded.get((kind, sha256)))
    if path is not None:
      return self._of_weights(path)
    return artefacts.Artefact(kind=kind, name=_name(kind), digest=sha256)

  def _of_dataset(
    self, name: str, wanted: Mapping[str, str] | None
  ) -> artefacts.Artefact:
    """Returns the tree of a dataset.

    Args:
      name: see `prepared_dataset.find`.
      wanted: digest of the content of each split; None if any will do.
    """
    key = json_documents.digest([name, wanted])
    if key not in self._known:
      self._known[key] = self._new_dataset(name, wanted)
    return self._known[key]

  def _cited(self, citation: str) -> artefacts.Artefact:
    """Returns the tree of a dataset from which episodes were selected."""
    name, _, digest = citation.partition('@')
    cited = artefacts.Artefact(
      kind=name.partition('/')[0], name=name, digest=digest
    )
    key = json_documents.digest([citation])
    if key not in self._known:
      self._known[key] = cited  # A forged log may cite its own dataset.
      with contextlib.suppress(errors.UserError, OSError):  # It is not here.
        self._known[key] = self._of_dataset(citation, None)
    return self._known[key]

  def _new_dataset(
    self, name: str, wanted: Mapping[str, str] | None
  ) -> artefacts.Artefact:
    if wanted is None:
      return self._found_dataset(self._prepared(name))
    facts = []
    # The newest version may hold the same content.
    for candidate in dict.fromkeys([name, name.partition(':')[0]]):
      with contextlib.suppress(errors.UserError, OSError):  # It is not here.
        prepared = self._prepared(candidate)
        if prepared.content_digests == wanted:
          return self._found_dataset(prepared)
        if candidate == name:
          facts.append('another one of this name is here')
    return artefacts.Artefact(
      kind=name.partition('/')[0],
      name=name,
      digest=digests.of_dataset(wanted),
      facts=facts,
    )

  def _prepared(self, name: str) -> prepared_dataset.Dataset:
    return prepared_dataset.find(
      name, self._data_dir, schema.KIND, latents_schema.KIND
    )

  def _found_dataset(
    self, prepared: prepared_dataset.Dataset
  ) -> artefacts.Artefact:
    config, splits = prepared.config, prepared.splits.values()
    folder = prepared.folder
    keys: dict[str, Any] | None = {'name': prepared.config_name}
    if prepared.name == 'carracing_latents':
      v = self._weights_with('vae', config['vae_sha256'])
      rollouts = self._of_dataset(
        config['rollouts'], config['rollouts_content_sha256']
      )
      sources = [v, rollouts]
      if v.path is None or v.digest != config['vae_sha256']:
        keys = None  # Rounded weights encode differently.
      else:
        keys |= {
          'rollouts': config['rollouts'],
          'vae': os.path.abspath(v.path),
          'latent_size': prepared.feature_sizes['latent_size'],
        }
    else:
      sources = list(self._drivers(folder, config))
      keys |= {k: v for k, v in config.items() if k != 'actions_sha256'}
      if 'actions_sha256' in config:
        keys['actions'] = os.fspath(folder / schema.ACTION_LOG)
      if config['policy'] == schema.RECORDED:
        del keys['num_episodes']
      imposed = config.get('interventions') and config['num_episodes']
      same_since = '3.0.0' if imposed else '2.0.0'
      if config['simulator'] == 'sketched':
        same_since = '4.0.0'
      if prepared.version < same_since:
        keys = None  # This code would draw other tracks, actions or frames.
    return artefacts.Artefact(
      kind=prepared.name,
      name=prepared.full_name,
      digest=prepared.digest,
      path=os.fspath(folder),
      facts=[
        f'{sum(x.num_episodes for x in splits):,} episodes,'
        f' {sum(x.num_steps for x in splits):,} steps'
      ],
      command=None if keys is None else _build(prepared, keys),
      sources=sources,
    )

  def _drivers(
    self, folder: Path, config: Mapping[str, Any]
  ) -> Iterator[artefacts.Artefact]:
    """Yields who drove the episodes of a rollouts dataset."""
    if config['policy'] != schema.RECORDED:
      facts = [f'seed {config["seed"]}']
      if probability := config.get('interventions'):
        facts.append(f'interventions {probability:g}')
      yield artefacts.Artefact(
        kind='policy', name=config['policy'], facts=facts
      )
    if 'actions_sha256' not in config:
      return
    found = artefacts.Artefact(
      kind='action_log', name='action log', digest=config['actions_sha256']
    )
    try:
      log = action_log.of_dataset(folder, config)
    except errors.UserError as error:
      yield dataclasses.replace(found, facts=[str(error)])
      return
    yield dataclasses.replace(
      found,
      path=os.fspath(folder / schema.ACTION_LOG),
      facts=[f'{len(log.actions):,} episodes'],
      command=_selection(log.header),
      sources=[
        *map(self._cited, log.header.selected_from),
        *self._logged_drivers(log),
      ],
    )

  def _logged_drivers(
    self, log: action_log.ActionLog
  ) -> Iterator[artefacts.Artefact]:
    """Yields the drivers of a log, whatever disturbed them."""
    groups: dict[str, list[action_log.LoggedEpisode]] = {}
    for episode in log.header.episodes:
      driver = episode.driver.model_copy(
        update={'noise': 0.0, 'noise_share': 1.0, 'interventions': 0.0}
      )
      groups.setdefault(driver.model_dump_json(), []).append(episode)
    for episodes in groups.values():
      driver = episodes[0].driver
      levels = sorted({episode.driver.noise for episode in episodes})
      facts = [f'{len(episodes):,} episodes']
      if levels != [0]:
        shares = {x.driver.noise_share for x in episodes if x.driver.noise}
        spells = ', in spells' if min(shares) < 1 else ''
        listed = ', '.join(f'{level:g}' for level in levels)
        facts.append(f'noise {listed}{spells}')
      probabilities = sorted({x.driver.interventions for x in episodes})
      if probabilities != [0]:
        listed = ', '.join(f'{x:g}' for x in probabilities)
        facts.append(f'interventions {listed}')
      if driver.weights_sha256 is None:
        kind = 'person' if driver.name == 'keyboard' else 'policy'
        yield artefacts.Artefact(kind=kind, name=driver.name, facts=facts)
        continue
      sha256 = driver.weights_sha256.model_dump()
      c = self._weights_with('controller', sha256['controller'])
      others = [
        self._weights_with(part, sha256[part]) for part in agent.PARTS[1::-1]
      ]
      # A C that was trained on has the earlier one among its sources.
      found = [x.digest for x in c.sources if x.kind != c.kind]
      if found != [x.digest for x in others]:
        c = artefacts.Artefact(
          kind=c.kind, name=c.name, digest=c.digest, sources=others
        )
      yield dataclasses.replace(c, facts=[*facts, *c.facts])


def _name(part: str) -> str:
  return f'{agent.NAMES[part]} ({part})'


def _selection(header: action_log.Header) -> str | None:
  """Returns the command that selects the episodes of a log again."""
  if not header.selected_from:
    return None
  datasets = f'--dataset={"+".join(header.selected_from)}'
  words = datasets, header.selected_by, '--output=FILE'
  return ' '.join(['python -m tools.select_episodes', *filter(None, words)])


def _build(prepared: prepared_dataset.Dataset, keys: Mapping[str, Any]) -> str:
  """Returns the command that builds a dataset anew, where it is if possible."""
  command = ['tfds', 'build', f'datasets/{prepared.name}']
  # A copy may have any name.
  name, config, version = prepared.name, prepared.config_name, prepared.version
  if prepared.folder.parts[-3:] == (name, config, str(version)):
    command.append(f'--data_dir={prepared.folder.parents[2]}')
  if keys['name'] != 'default':
    command.append(f'--config={json.dumps(keys)}')
  return shlex.join(command)


def _facts_of_weights(training: _Training) -> Iterator[str]:
  if training.step is not None:
    yield f'step {training.step:,}'
  for name in 'score', 'nll', 'loss':
    if name in training.validation:
      yield f'{name} {training.validation[name]:.4g}'
      break
  if training.git_revision is not None:
    yield f'code {short_revision(training.git_revision)}'


def short_revision(revision: str | None) -> str:
  """Returns a revision of the code for people; `-dirty` stays at its end."""
  if revision is None:
    return 'unknown'
  commit, mark, dirty = revision.partition('-')
  return f'{commit[:10]}{mark}{dirty}'


def read_below(
  folders: Iterable[Path], name: str, read: Callable[[Path], _Document]
) -> Iterator[tuple[Path, _Document]]:
  """Yields the folders with a file, at most two levels below others.

  Args:
    folders: where to look.
    name: name of the file.
    read: reads the file in a folder, which is left out at a UserError.

  Yields:
    Each folder and what was read.
  """
  seen = set()
  for folder in folders:
    for pattern in '', '*/', '*/*/':
      for file in sorted(folder.glob(pattern + name)):
        if (resolved := file.resolve()) not in seen:
          seen.add(resolved)
          try:
            yield file.parent, read(file.parent)
          except errors.UserError as error:
            logging.warning('Left out: %s', error)
