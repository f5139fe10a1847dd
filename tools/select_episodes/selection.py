"""Episodes of prepared datasets → those that are wanted, as an action log."""

from collections.abc import Iterator, Sequence
import fnmatch
import shlex
from typing import NamedTuple

from carracing_data import errors
from carracing_data import prepared_dataset
from carracing_data import progress
from carracing_rollouts import action_log
from carracing_rollouts import environment
from carracing_rollouts import loader
from carracing_rollouts import schema
from carracing_rollouts import who_drove
import numpy as np

_Episode = tuple[action_log.LoggedEpisode, np.ndarray]


class Criteria(NamedTuple):
  """What is wanted.

  Attributes:
    drivers: pattern (`*`, `?`) of the driver's title, with or without the
      digest of its C; see `action_log.Driver`.
    min_return: lowest return; None: any.
    max_return: highest return; None: any.
    min_steps: lowest number of steps, N.
    max_steps: highest number of steps; None: any.
    part: which of the episodes of a split that are left, `START:STOP:STEP`.
  """

  drivers: str = '*'
  min_return: float | None = None
  max_return: float | None = None
  min_steps: int = 1
  max_steps: int | None = None
  part: str = ':'

  def flags(self) -> str:
    """Returns the flags of `tools.select_episodes` that say the same."""
    given = {
      name: value
      for name, value in self._asdict().items()
      if value != self._field_defaults[name]
    }
    return shlex.join(f'--{name}={value}' for name, value in given.items())

  def meets(self, episode: action_log.LoggedEpisode) -> bool:
    """Returns whether an episode is wanted, but for `part`."""
    titles = episode.driver.title, episode.driver.full_title
    return (
      any(fnmatch.fnmatchcase(title, self.drivers) for title in titles)
      and (self.min_return is None or episode.return_ >= self.min_return)
      and (self.max_return is None or episode.return_ <= self.max_return)
      and episode.num_steps >= self.min_steps
      and (self.max_steps is None or episode.num_steps <= self.max_steps)
    )


def select(
  datasets: Sequence[prepared_dataset.Dataset], criteria: Criteria
) -> action_log.ActionLog:
  """Returns the episodes of rollouts that are wanted, each in its split.

  An episode that several datasets have is taken once.

  Raises:
    errors.UserError: `part` is no slice, or the criteria cannot be recorded.
    errors.DatasetError: the datasets differ in their simulator or time limit,
      a record or a log is damaged, or no episode of a split is wanted.
  """
  part, first = _slice(criteria.part), datasets[0].config
  flags = criteria.flags()
  if len(flags) > 400 or not (flags.isascii() and flags.isprintable()):
    raise errors.UserError(
      'the criteria, which a log records, must be at most 400 ASCII characters'
    )
  environment.check_simulator(first['simulator'])
  for name in 'simulator', 'max_steps':
    if len({x.config[name] for x in datasets}) > 1:
      differing = (f'{x.config[name]} of {x.full_name}' for x in datasets)
      raise errors.DatasetError(
        f'the datasets differ in {name}: {", ".join(differing)}; select from'
        ' one at a time, and train on A+B'
      )
  selected: list[_Episode] = []
  total = sum(s.num_episodes for x in datasets for s in x.splits.values())
  with progress.Progress('episode', 'episodes', total) as shown:
    shown.start()
    for split in schema.SPLITS:
      wanted: dict[tuple[int, bytes], _Episode] = {}
      there: list[action_log.LoggedEpisode] = []
      for logged, actions in _episodes(datasets, split):
        shown.count_one()
        there.append(logged)
        if criteria.meets(logged):
          key = logged.track_seed, actions.tobytes()
          wanted.setdefault(key, (logged, actions))
      if not (left := [*wanted.values()][part]):
        returns = [x.return_ for x in there]
        steps = [x.num_steps for x in there]
        who = ', '.join(dict.fromkeys(x.driver.title for x in there))
        raise errors.DatasetError(
          f'no {split} episode is wanted, of {len(there)} with returns from'
          f' {min(returns):.1f} to {max(returns):.1f} and {min(steps)} to'
          f' {max(steps)} steps, driven by {who}'
        )
      selected += left
  tracks = [
    {x.track_seed for x, _ in selected if x.split == s} for s in schema.SPLITS
  ]
  if both := set.intersection(*tracks):
    raise errors.DatasetError(
      f'track {min(both)} is in both splits of these datasets, of which one is'
      ' of version 1; select from one at a time'
    )
  episodes, actions = zip(*selected)
  of_all = [x.metadata.packages.items() for x in datasets]
  played = environment.SIMULATORS[first['simulator']].PACKAGES
  header = action_log.Header(
    simulator=first['simulator'],
    packages={
      k: v
      for k, v in of_all[0]
      if k in played and all((k, v) in x for x in of_all)
    },
    max_steps=first['max_steps'],
    selected_from=[x.citation for x in datasets],
    selected_by=flags,
    episodes=list(episodes),
  )
  return action_log.ActionLog(header, actions)


def _slice(text: str) -> slice:
  numbers = text.split(':')
  try:
    if not 2 <= len(numbers) <= 3:
      raise ValueError('it is not START:STOP or START:STOP:STEP')
    part = slice(*(int(x) if x else None for x in numbers))
    part.indices(0)  # A step of 0 fails.
  except ValueError as error:
    raise errors.UserError(f'--part={text[:80]}: {error}') from None
  return part


def _episodes(
  datasets: Sequence[prepared_dataset.Dataset], split: str
) -> Iterator[_Episode]:
  for prepared in datasets:
    origins = who_drove.of_split(prepared, split)
    episodes = loader.episodes(prepared.folder, split=split)
    for origin, episode in zip(origins, episodes, strict=True):
      yield action_log.logged(
        split,
        origin.track_seed,
        origin.driver,
        episode.action[:-1],
        episode.is_intervention[:-1],
        episode.reward[:-1],
        bool(episode.is_terminal[-1]),
      )
