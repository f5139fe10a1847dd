"""The `carracing_rollouts` dataset: `tfds build carracing_rollouts`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

from carracing_data import builder_config
from carracing_data import dataset_info
from carracing_data import errors
from carracing_data import sharded_builder
from carracing_data import shards
from carracing_data import steps
from carracing_rollouts import culled_car_racing
from carracing_rollouts import environment
from carracing_rollouts import game
from carracing_rollouts import policies
from carracing_rollouts import rollout
from carracing_rollouts import schema
from carracing_rollouts import sketched_car_racing
import tensorflow_datasets as tfds


@dataclasses.dataclass(eq=False)
class RolloutsConfig(builder_config.Config):
  """Config of `tfds build carracing_rollouts --config '{...}'`.

  See `schema.Config` for the keys.
  """

  SCHEMA = schema.Config

  num_episodes: int = 30
  max_steps: int = 1000  # CarRacing's own limit, 20 s at 50 Hz.
  policy: str = 'random_policy'
  seed: int = 0
  simulator: str = 'gymnasium'

  def __post_init__(self):
    super().__post_init__()
    try:
      policies.make(self.policy)
    except errors.DatasetError as error:
      raise errors.DatasetError(f'invalid config: policy: {error}') from None
    try:
      environment.check_simulator(self.simulator)
    except errors.UserError as error:
      raise errors.DatasetError(f'invalid config: simulator: {error}') from None

  def split_sizes(self) -> dict[str, int]:
    """Returns the number of episodes of each split."""
    validation = max(1, self.num_episodes // 10)
    return dict(
      zip(schema.SPLITS, (self.num_episodes - validation, validation))
    )


class Builder(sharded_builder.ShardedBuilder):
  """Rolls out a policy in CarRacing and records every step."""

  CODE = (
    culled_car_racing,
    environment,
    game,
    policies,
    rollout,
    schema,
    sketched_car_racing,
    steps,
  )
  VERSION = tfds.core.Version('1.0.1')
  RELEASE_NOTES = {
    '1.0.1': 'The metadata counts terminated episodes and seals shard lengths.',
    '1.0.0': 'Initial release.',
  }
  BUILDER_CONFIGS = [
    RolloutsConfig(
      name='default', description='30 episodes of the random policy.'
    )
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=dataset_info.features_of(schema.KIND),
      homepage='https://gymnasium.farama.org/environments/box2d/car_racing/',
      disable_shuffling=True,  # Segments of an episode stay together.
      metadata=tfds.core.MetadataDict(),
    )

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
    generate = functools.partial(
      rollout.generate,
      seed=config.seed,
      policy=config.policy,
      simulator=config.simulator,
      max_steps=config.max_steps,
    )
    return {
      split: [
        functools.partial(
          _write_episodes,
          generate=functools.partial(generate, split),
          episode_ids=episode_ids,
        )
        for episode_ids in shards.episodes_of_shards(size)
      ]
      for split, size in config.split_sizes().items()
    }


def _write_episodes(
  write: Callable[[Mapping[str, Any]], None],
  *,
  generate: Callable[[int], schema.Episode],
  episode_ids: Iterable[int],
) -> list[steps.Summary]:
  """Generates episodes and writes their segments."""
  summaries = []
  for episode_id in episode_ids:
    episode = generate(episode_id)
    for record in schema.cut(episode_id, episode):
      write(record)
    summaries.append(steps.summarize(vars(episode)))
  return summaries
