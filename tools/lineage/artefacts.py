"""A tree of artefacts: what something was made from, and how it is shown."""

from collections.abc import Iterator
import dataclasses

from carracing_data import command_line
from carracing_data import digests
from models import agent

ROUNDED = 'rounded to float16'  # A fact of published weights.
UNFINISHED = 'not finished'


@dataclasses.dataclass(frozen=True)
class Artefact:
  """Weights, a dataset, an action log or a driver, and what it was made from.

  Attributes:
    kind: `vae`, `mdn_rnn`, `controller`, `carracing_rollouts`,
      `carracing_latents`, `action_log`, `policy` or `person`.
    name: name for people.
    digest: SHA-256 of the content, or its beginning; None for drivers without
      weights.
    path: folder or file that holds this very content here; None: not found.
    facts: what else is known, in short words.
    command: what makes it again; None: unknown, or it cannot be made again.
    sources: what it was made from.
  """

  kind: str
  name: str
  digest: str | None = None
  path: str | None = None
  facts: list[str] = dataclasses.field(default_factory=list)
  command: str | None = None
  sources: list['Artefact'] = dataclasses.field(default_factory=list)

  @property
  def title(self) -> str:
    """Its name and the beginning of its digest."""
    if self.digest is None:
      return self.name
    return f'{self.name} @{self.digest[: digests.SHORT]}'

  @property
  def again(self) -> str:
    """How it is made again; empty if that is not known."""
    if self.command is not None:
      # Defaults of a run may have changed since.
      with_its = ', with its code' if self.kind in agent.PARTS else ''
      return f'again{with_its}: {self.command}'
    if self.kind == 'action_log':
      return 'cannot be made again: keep the file'
    return ''


def walk(artefact: Artefact) -> Iterator[Artefact]:
  """Yields an artefact and all of its sources, each once."""
  seen = set()
  waiting = [artefact]
  while waiting:
    artefact = waiting.pop(0)
    key = artefact.digest or (artefact.name, *artefact.facts)
    if key in seen:
      continue
    seen.add(key)
    yield artefact
    waiting = [*artefact.sources, *waiting]


def lines(artefact: Artefact) -> Iterator[str]:
  """Yields the lines of a tree, for people."""
  yield from map(command_line.printable, _lines(artefact, '', '', set()))


def _lines(
  artefact: Artefact, first: str, rest: str, shown: set[str]
) -> Iterator[str]:
  head = ', '.join([artefact.title, *artefact.facts])
  if artefact.digest in shown and artefact.sources:
    yield f'{first}{head}: see above'
    return
  yield first + head
  if artefact.digest is not None:
    shown.add(artefact.digest)
    stem = rest + ('│ ' if artefact.sources else '  ')
    yield f'{stem}{artefact.path or "not found here"}'
    if artefact.again:
      yield f'{stem}{artefact.again}'
  for i, source in enumerate(artefact.sources):
    last = i == len(artefact.sources) - 1
    yield from _lines(
      source,
      rest + ('└─ ' if last else '├─ '),
      rest + ('   ' if last else '│  '),
      shown,
    )
