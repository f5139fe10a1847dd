"""Episodes of a prepared dataset → their tracks, and who drove."""

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


class Origins:
  """The origins of the episodes of a split, by index."""

  def __init__(self, prepared: prepared_dataset.Dataset, split: str):
    """Reads the dataset's log, if it has one.

    Args:
      prepared: a dataset, see `prepared_dataset.find`.
      split: `train` or `validation`.

    Raises:
      errors.DatasetError: the dataset's log is missing or damaged, or does not
        fit the dataset; or its policy has no proper name.
    """
    config = prepared.config
    self._seed, self._split = config['seed'], split
    # Those of the policy come first.
    self._from_policy = schema.split_sizes(config['num_episodes'])[split]
    try:
      self._policy = action_log.Driver(name=config['policy'])
    except pydantic.ValidationError:
      raise errors.DatasetError(
        f'{prepared.folder} names a policy {config["policy"]!r}, which no'
        ' version of this project has'
      ) from None
    self._logged = []
    if 'actions_sha256' in config:
      log = action_log.of_dataset(prepared.folder, config)
      self._logged = [episode for episode, _ in log.of_split(split)]
    recorded = prepared.splits[split].num_episodes
    if len(self) != recorded:
      raise errors.DatasetError(
        f'{prepared.folder} has {recorded} {split} episodes, but its config'
        f' and log tell of {len(self)}; restore it from another copy'
      )

  def __len__(self) -> int:
    return self._from_policy + len(self._logged)

  def __getitem__(self, episode_id: int) -> Origin:
    if not 0 <= episode_id < len(self):
      raise IndexError(f'{episode_id} is not one of {len(self)} episodes')
    logged = episode_id - self._from_policy
    if logged >= 0:
      episode = self._logged[logged]
      return Origin(episode.track_seed, episode.driver)
    track_seed, _ = rollout.episode_seeds(self._seed, self._split, episode_id)
    return Origin(track_seed, self._policy)


def by_driver(
  prepared: prepared_dataset.Dataset, *splits: str
) -> dict[str, list[tuple[str, int]]]:
  """Returns the episodes of each driver.

  Args:
    prepared: a dataset, see `prepared_dataset.find`.
    *splits: names of splits.

  Returns:
    (split, index in the split) of the episodes, by title of the driver. Titles
    of different agents get the beginning of the digest of their C.

  Raises:
    errors.DatasetError: see `Origins`.
  """
  found: dict[action_log.Driver, list[tuple[str, int]]] = {}
  for split in splits:
    origins = Origins(prepared, split)
    for i in range(len(origins)):
      found.setdefault(origins[i].driver, []).append((split, i))
  titles = [driver.title for driver in found]
  by_title: dict[str, list[tuple[str, int]]] = {}
  for driver, episodes in found.items():
    unique = titles.count(driver.title) == 1
    title = driver.title if unique else driver.full_title
    by_title.setdefault(title, []).extend(episodes)  # V or M may differ.
  return by_title
