"""Episodes of a prepared dataset → their tracks, and who drove."""

from pathlib import Path
from typing import Any, NamedTuple

from carracing_rollouts import action_log
from carracing_rollouts import rollout
from carracing_rollouts import schema
import tensorflow_datasets as tfds


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

  def __init__(self, builder: tfds.core.DatasetBuilder, split: str):
    """Reads the dataset's log, if it has one.

    Args:
      builder: a builder returned by `prepared.find`.
      split: `train` or `validation`.

    Raises:
      action_log.LogError: the dataset's log is missing or damaged.
    """
    metadata: Any = builder.info.metadata
    config = metadata['config']
    self._seed, self._split = config['seed'], split
    self._policy = config['policy']
    # Those of the policy come first.
    self._from_policy = schema.split_sizes(config['num_episodes'])[split]
    self._logged = []
    if 'actions_sha256' in config:
      log = action_log.of_dataset(Path(builder.data_dir), config)
      self._logged = [episode for episode, _ in log.of_split(split)]

  def __len__(self) -> int:
    return self._from_policy + len(self._logged)

  def __getitem__(self, episode_id: int) -> Origin:
    logged = episode_id - self._from_policy
    if logged >= 0:
      episode = self._logged[logged]
      return Origin(episode.track_seed, episode.driver)
    track_seed, _ = rollout.episode_seeds(self._seed, self._split, episode_id)
    return Origin(track_seed, action_log.Driver(name=self._policy))
