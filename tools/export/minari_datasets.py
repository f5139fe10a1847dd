"""A prepared `carracing_rollouts` dataset → a Minari dataset for each split.

An episode of N transitions has N+1 observations and N actions, rewards,
terminations and truncations there; any other features are its infos. Frames are
stored without loss.
"""

from collections.abc import Iterator, Sequence
import copy
import os
from pathlib import Path
import re

from absl import logging
from carracing_data import errors
from carracing_data import files
from carracing_data import prepared_dataset
from carracing_data import progress
from carracing_data import rlds_steps
from carracing_rollouts import loader
from carracing_rollouts import schema
from carracing_rollouts import who_drove
import gymnasium
import minari
from minari.data_collector import episode_buffer
from minari.dataset import minari_storage
import numpy as np

# A sixth of the size of HDF5, Minari's default, which stores raw frames.
_FORMAT = 'parquet'
_MAX_STEPS = 32_768  # Minari takes a longer episode in Parquet for several.
_DESCRIPTION = (
  "Episodes of Gymnasium's CarRacing-v3. An observation is rows 0..83 of the"
  " game's 96×96 frame, resized to 64×64 by exact area means. Actions: steering"
  ' −1..1, gas 0..1, brake 0..1. The seed of an episode is that of its track;'
  ' its metadata name who drove. The recovered environment shows whole frames;'
  ' with cv2.resize(frame[:84], (64, 64), interpolation=cv2.INTER_AREA) they'
  ' are the observations. infos["is_intervention"]: whether an action was'
  ' imposed on the driver, at random.'
)
# What Minari keeps in fields of its own, or what follows from them.
_FIELDS = (
  'observation',
  'action',
  'reward',
  'discount',
  'is_first',
  'is_last',
  'is_terminal',
)


def export(name: str, output_dir: Path, data_dir: str | None = None) -> None:
  """Writes a Minari dataset for each split.

  The new folder `minari` is what `$MINARI_DATASETS_PATH` is to name.

  Raises:
    errors.DatasetError: the dataset is missing, of another kind or damaged, or
      has an episode that Minari cannot read.
    errors.UserError: the export exists already, or cannot be written.
  """
  prepared = prepared_dataset.find(name, data_dir, schema.KIND)
  longest = max(max(x.episode_steps) for x in prepared.splits.values())
  if longest > _MAX_STEPS:
    raise errors.DatasetError(
      f'{prepared.full_name} has an episode of {longest:,}'
      f' steps, but Minari reads at most {_MAX_STEPS:,}; export it with'
      ' --format=rlds'
    )
  # Minari's names have no dots.
  config = re.sub(r'\W', '-', prepared.config_name)
  namespace = f'{prepared.name}/{config}'
  ids = [f'{namespace}/{x}-v{prepared.version.major}' for x in schema.SPLITS]
  # A folder of its own: Minari takes all that is beside it for datasets.
  root = output_dir / 'minari'
  with files.new_folder(root / namespace) as folder:
    for split, dataset_id in zip(schema.SPLITS, ids):
      data = folder / os.path.basename(dataset_id) / 'data'
      data.mkdir(parents=True)
      _write(prepared, split, dataset_id, data)
  logging.info(
    'Saved %s; load them with MINARI_DATASETS_PATH=%s', ' and '.join(ids), root
  )


def _write(
  prepared: prepared_dataset.Dataset, split: str, dataset_id: str, folder: Path
) -> None:
  """Writes the dataset of a split."""
  packages = prepared.metadata.packages
  of_split = who_drove.of_split(prepared, split)
  drivers = [of_split[i].driver for i in range(len(of_split))]
  # The game that was driven, whose frames are larger.
  spec = copy.deepcopy(gymnasium.spec('CarRacing-v3'))
  spec.max_episode_steps = prepared.config['max_steps']
  storage = minari_storage.MinariStorage.new(
    folder,
    gymnasium.spaces.Box(0, 255, rlds_steps.OBSERVATION_SHAPE, np.uint8),
    gymnasium.spaces.Box(rlds_steps.ACTION_LOW, rlds_steps.ACTION_HIGH),
    spec,
    _FORMAT,
    jpeg_encoding=False,
  )
  storage.update_metadata(
    {
      'dataset_id': dataset_id,
      'minari_version': minari.__version__,
      'description': _DESCRIPTION,
      'algorithm_name': '; '.join(dict.fromkeys(x.title for x in drivers)),
      'requirements': [f'{k}=={v}' for k, v in packages.items()],
      'source': prepared.citation,
      'source_content_sha256': prepared.content_digests[split],
      'source_config': prepared.config,
    }
  )
  episodes = loader.episodes(str(prepared.folder), split=split)
  storage.update_episodes(_buffers(episodes, of_split, split))
  storage.update_episode_metadata({'driver': x.model_dump()} for x in drivers)


def _buffers(
  episodes: Sequence[schema.Episode],
  of_split: Sequence[who_drove.Origin],
  split: str,
) -> Iterator[episode_buffer.EpisodeBuffer]:
  shown = progress.each(episodes, split, 'episodes')
  for i, episode in enumerate(shown):
    yield episode_buffer.EpisodeBuffer(
      seed=of_split[i].track_seed,
      observations=[*episode.observation],
      actions=[*episode.action[:-1]],
      rewards=[*episode.reward[:-1]],
      terminations=[*episode.is_terminal[1:]],
      truncations=[*(episode.is_last & ~episode.is_terminal)[1:]],
      infos={
        name: [*values]
        for name, values in vars(episode).items()
        if name not in _FIELDS
      },
    )
