"""Builds episodes of the game as the dataset `carracing_rollouts`.

tfds build datasets/carracing_rollouts
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
import os
from typing import Annotated, Any

from carracing_data import digests
from carracing_data import errors
from carracing_data import prepared_dataset
from carracing_data import rlds_steps
from carracing_data import sharded_builder
from carracing_data import shards
from carracing_rollouts import action_log
from carracing_rollouts import culled_car_racing
from carracing_rollouts import environment
from carracing_rollouts import interventions
from carracing_rollouts import policies
from carracing_rollouts import rollout
from carracing_rollouts import schema
from carracing_rollouts import sketched_car_racing
from carracing_rollouts import tracks
import numpy as np
import pydantic
import tensorflow_datasets as tfds

_NUM_EPISODES = 30


class _Settings(schema.Config):
  # Datasets with larger ones stay readable. NumPy pads seeds with zeros, so
  # 3 + 2**32 would draw the tracks that 3 draws for the other split.
  seed: Annotated[int, pydantic.Field(ge=0, lt=2**32)]
  actions: str


class RolloutsConfig(sharded_builder.Config):
  """Config of `tfds build datasets/carracing_rollouts --config '{...}'`.

  See `schema.Config` for the keys; instead of the digest of an action log,
  `actions` is its path.
  """

  SCHEMA = _Settings

  num_episodes: int  # By default 30, or 0 for the policy `recorded`.
  # By default that of the log, or else CarRacing's own limit, 20 s at 50 Hz.
  max_steps: int = 1000
  policy: str = 'random_policy'
  seed: int = 0
  interventions: float = 0.0
  simulator: str = 'gymnasium'
  actions: str = ''  # Action log, relative to the working directory.

  def __init__(self, name: str = '', **values: Any):
    recorded = values.get('policy') == schema.RECORDED
    num_episodes = 0 if recorded else _NUM_EPISODES
    super().__init__(name, **{'num_episodes': num_episodes, **values})
    self._takes_max_steps = 'max_steps' not in values
    for key, check in (
      ('policy', self._check_policy),
      ('num_episodes', self._check_num_episodes),
      ('interventions', self._check_interventions),
      ('simulator', lambda: environment.check_simulator(self.simulator)),
      ('actions', self._read_log),
    ):
      try:
        check()
      except errors.UserError as error:
        raise errors.DatasetError(f'invalid config: {key}: {error}') from None

  def _check_policy(self) -> None:
    if self.policy == schema.RECORDED:
      return
    try:
      policies.make(self.policy)
    except errors.DatasetError as error:
      raise errors.DatasetError(
        f'{error}; or {schema.RECORDED}, with "actions"'
      ) from None

  def _check_num_episodes(self) -> None:
    if self.policy != schema.RECORDED:
      if self.num_episodes < 2:
        raise errors.DatasetError(
          f'Input should be at least 2, not {self.num_episodes}'
        )
    elif self.num_episodes:
      raise errors.DatasetError(
        f'the policy {schema.RECORDED} drives only the episodes of its log, so'
        ' leave this key out; for a mixture, name the policy of the others'
      )

  def _check_interventions(self) -> None:
    if self.policy == schema.RECORDED and self.interventions:
      raise errors.DatasetError(
        f'the policy {schema.RECORDED} has those of its log, so leave this key'
        ' out'
      )

  def _read_log(self) -> None:
    """Sets `log` and its `log_content`, which are None without `actions`."""
    self.log: action_log.ActionLog | None = None
    self.log_content: bytes | None = None
    if not self.actions:
      if self.policy == schema.RECORDED:
        raise errors.DatasetError(
          f'the policy {schema.RECORDED} needs an action log, "actions": FILE'
        )
      return
    self.log_content = action_log.read_bytes(self.actions)
    self.log = action_log.parse(self.log_content, self.actions)
    if self._takes_max_steps:
      self.max_steps = self.log.header.max_steps
    if self.log.header.max_steps != self.max_steps:
      raise errors.DatasetError(
        f'{self.actions} was recorded with max_steps='
        f'{self.log.header.max_steps}, not {self.max_steps}; leave this key out'
      )
    for split, size in self.split_sizes().items():
      if not size:
        raise errors.DatasetError(f'{self.actions} has no {split} episodes')

  def split_sizes(self) -> dict[str, int]:
    """Returns the number of episodes of each split."""
    return {
      split: size + (len(self.log.of_split(split)) if self.log else 0)
      for split, size in schema.split_sizes(self.num_episodes).items()
    }


class Builder(sharded_builder.ShardedBuilder):
  """Rolls out a policy in CarRacing and records every step."""

  KIND = schema.KIND
  CODE = (
    action_log,
    culled_car_racing,
    environment,
    interventions,
    policies,
    rollout,
    schema,
    sketched_car_racing,
    tracks,
    rlds_steps,
  )
  VERSION = tfds.core.Version(schema.KIND.version)
  RELEASE_NOTES = {
    '4.0.0': (
      'Frames of `sketched` are closer to those of `gymnasium`, whose data are'
      ' unchanged.'
    ),
    '3.0.0': 'Interventions of up to 300 steps: other random draws.',
    '2.0.0': 'Interventions; no track is in two splits: other episodes.',
    '1.1.0': 'Configs with an action log; the data of others are unchanged.',
    '1.0.1': 'The metadata counts terminated episodes and seals shard lengths.',
    '1.0.0': 'Initial release.',
  }
  BUILDER_CONFIGS = [
    RolloutsConfig(
      name='default',
      description='30 episodes of the random policy, with interventions.',
      interventions=0.02,
    )
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=prepared_dataset.features_of(schema.KIND.features),
      homepage='https://gymnasium.farama.org/environments/box2d/car_racing/',
      disable_shuffling=True,  # Segments of an episode stay together.
      metadata=tfds.core.MetadataDict(),
    )

  def _identity(self) -> Mapping[str, Any]:
    config = self.builder_config
    identity = {
      name: getattr(config, name)
      for name in schema.Config.model_fields
      if name != 'actions_sha256'
    }
    # The log's content, wherever it lies.
    if config.log_content is not None:
      identity['actions_sha256'] = digests.of_bytes(config.log_content)
    return identity

  def _attachments(self) -> Mapping[str, bytes]:
    # So that whoever has the dataset knows its tracks and who drove.
    content = self.builder_config.log_content
    return {} if content is None else {schema.ACTION_LOG: content}

  def _packages(self) -> Sequence[str]:
    simulator = environment.SIMULATORS[self.builder_config.simulator]
    return (
      'array_record',
      'numpy',
      'opencv-python-headless',
      *simulator.PACKAGES,
    )

  def _shards(self) -> Mapping[str, Sequence[shards.Shard]]:
    config = self.builder_config
    num_generated = schema.split_sizes(config.num_episodes)
    return {
      split: [
        functools.partial(
          _write_episodes,
          split=split,
          episode_ids=episode_ids,
          num_generated=num_generated[split],
          log=os.path.abspath(self._attachment_path(schema.ACTION_LOG)),
          log_sha256=self._identity().get('actions_sha256'),
          seed=config.seed,
          policy=config.policy,
          interventions=config.interventions,
          simulator=config.simulator,
          max_steps=config.max_steps,
        )
        for episode_ids in shards.episodes_of_shards(
          size, schema.STEP_BYTES * config.max_steps
        )
      ]
      for split, size in config.split_sizes().items()
    }


def _write_episodes(
  write: Callable[[Mapping[str, Any]], None],
  *,
  split: str,
  episode_ids: Iterable[int],
  num_generated: int,
  log: str,
  log_sha256: str | None,
  simulator: str,
  **generate: Any,
) -> list[rlds_steps.Summary]:
  """Writes the segments of episodes.

  The first `num_generated` of a split are driven by the policy, as
  `rollout.generate` takes it; the others are those of the log, replayed.

  Raises:
    errors.DatasetError: the log changed, or its replay differs.
  """
  summaries = []
  for episode_id in episode_ids:
    if episode_id < num_generated:
      episode = rollout.generate(
        split, episode_id, simulator=simulator, **generate
      )
    else:
      packages, logged = _logged(log, log_sha256, split)
      index = episode_id - num_generated
      try:
        episode = rollout.replay(*logged[index], simulator)
      except errors.DatasetError as error:
        raise errors.DatasetError(
          f'{split} episode {index} of the action log: {error}; recorded with'
          f' {packages}, replayed with {rollout.versions(simulator)}'
        ) from None
    for record in schema.cut(episode_id, episode):
      write(record)
    summaries.append(rlds_steps.summarize(vars(episode)))
  return summaries


@functools.lru_cache(maxsize=2)  # Read once for all shards of a split.
def _logged(
  path: str, sha256: str | None, split: str
) -> tuple[
  dict[str, str], Sequence[tuple[action_log.LoggedEpisode, np.ndarray]]
]:
  """Returns the packages of a log, and the episodes of a split."""
  content = action_log.read_bytes(path)
  if digests.of_bytes(content) != sha256:
    raise errors.DatasetError(f'{path} changed during the build; run it again')
  log = action_log.parse(content, path)
  return log.header.packages, log.of_split(split)
