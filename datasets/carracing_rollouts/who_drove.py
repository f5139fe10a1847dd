"""Episodes of a prepared dataset → their tracks, and who drove."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from carracing_data import errors
from carracing_data import prepared_dataset
from carracing_rollouts import action_log
from carracing_rollouts import rollout
from carracing_rollouts import schema
import pydantic


class Origin(NamedTuple):
  """Where an episode comes from.

  Attributes:
    track_seed: seed of the track.
    driver: who drove.
  """

  track_seed: int
  driver: action_log.Driver


def of_split(prepared: prepared_dataset.Dataset, split: str) -> list[Origin]:
  """Returns who drove each `train` or `validation` episode, and where.

  Raises:
    errors.DatasetError: the dataset's log is missing or damaged, or does not
      fit the dataset; or its policy has no proper name.
  """
  config = prepared.config
  try:
    policy = action_log.Driver(
      name=config['policy'], interventions=config.get('interventions', 0.0)
    )
  except pydantic.ValidationError:
    raise errors.DatasetError(
      f'{prepared.folder} names a policy {config["policy"]!r}, which no'
      ' version of this project has'
    ) from None
  logged = []
  if 'actions_sha256' in config:
    log = action_log.of_dataset(prepared.folder, config)
    logged = [Origin(x.track_seed, x.driver) for x, _ in log.of_split(split)]
  from_policy = schema.split_sizes(config['num_episodes'])[split]
  recorded = prepared.splits[split].num_episodes
  if from_policy + len(logged) != recorded:
    raise errors.DatasetError(
      f'{prepared.folder} has {recorded} {split} episodes, but its config and'
      f' log tell of {from_policy + len(logged)}; restore it from another copy'
    )
  earlier = prepared.version < '2.0.0'
  track = rollout.track_in_version_1 if earlier else rollout.track
  seeds = (track(config['seed'], split, i) for i in range(from_policy))
  return [*(Origin(seed, policy) for seed in seeds), *logged]


def of_dataset(prepared: prepared_dataset.Dataset) -> dict[str, list[Origin]]:
  """Returns who drove each episode of every split; see `of_split`."""
  return {split: of_split(prepared, split) for split in schema.SPLITS}


def by_driver(
  drives: Mapping[str, Sequence[Origin]],
) -> dict[str, list[tuple[str, int]]]:
  """Returns the episodes of each driver, given those of each split.

  Returns:
    (split, index in the split) of the episodes, by title of the driver. Titles
    of different agents get the beginning of the digest of their C.
  """
  found: dict[action_log.Driver, list[tuple[str, int]]] = {}
  for split, of_episodes in drives.items():
    for i, drive in enumerate(of_episodes):
      found.setdefault(drive.driver, []).append((split, i))
  titles = [driver.title for driver in found]
  by_title: dict[str, list[tuple[str, int]]] = {}
  for driver, episodes in found.items():
    unique = titles.count(driver.title) == 1
    title = driver.title if unique else driver.full_title
    by_title.setdefault(title, []).extend(episodes)  # V or M may differ.
  return by_title
