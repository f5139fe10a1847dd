"""Saves frames, reconstructions and a dream of the world model.

  python -m tools.dream --vae=runs/vae/weights --mdn_rnn=runs/mdn_rnn/weights

The MDN-RNN watches the first steps of a validation episode. Then it dreams: it
receives the recorded actions, but its own predictions instead of real frames.
Writes reconstructions.png, dream.png and dream.mp4 to the output directory.
"""

from collections.abc import Mapping, Sequence
import math
from pathlib import Path

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import errors
from carracing_data import files
from etils import epy
import numpy as np

with epy.lazy_imports():
  from carracing_data import runtime
  from carracing_rollouts import loader
  import jax
  from models import world_model
  from tools.showing import films
  from tools.showing import pictures
  from tools.showing import watched_dreams

_VAE, _MDN_RNN = command_line.weights_flags()
_DATASET = command_line.dataset_flag()
_EPISODE = flags.DEFINE_integer(
  'episode', 0, 'Index of the validation episode, starting at 0.', lower_bound=0
)
_SEEN_STEPS = flags.DEFINE_integer(
  'seen_steps',
  80,
  'Number of steps to watch before the dream. The camera zooms in during the'
  ' first 50.',
  lower_bound=1,
)
_DREAM_STEPS = flags.DEFINE_integer(
  'dream_steps', 100, 'Maximum number of steps to dream.', lower_bound=1
)
_TEMPERATURE = flags.DEFINE_float(
  'temperature',
  1.0,
  'Sampling temperature of the dream. Below 1 the dream is less random than the'
  " model predicts; at 0 each step takes the likeliest component's mean.",
  lower_bound=0,
  upper_bound=100,
)
flags.register_validator('temperature', math.isfinite, 'It must be finite.')
_SEED = flags.DEFINE_integer(
  'seed', 0, 'Random seed of the dream.', lower_bound=0, upper_bound=2**32 - 1
)
_DATA_DIR = command_line.data_dir_flag()
_OUTPUT_DIR = command_line.output_dir_flag('dream')
_COLUMNS = 10


def save(
  shown: Mapping[str, np.ndarray], seen_steps: int, output_dir: Path
) -> list[Path]:
  """Saves reconstructions (PNG) and a dream (PNG and MP4); returns the files.

  `shown` is what `watched_dreams.dream` returned; the folder must exist.
  """
  num_frames = len(shown['frame'])

  def columns(first: int) -> np.ndarray:
    return np.linspace(first, num_frames - 1, _COLUMNS).round().astype(int)

  files = [
    output_dir / name
    for name in ('reconstructions.png', 'dream.png', 'dream.mp4')
  ]
  steps = columns(0)
  pictures.save_strip(
    files[0],
    {name: shown[name][steps] for name in ('frame', 'VAE')},
    [f'step {i}' for i in steps],
    'Frames and their reconstructions from 32 numbers',
  )
  steps = columns(seen_steps)
  pictures.save_strip(
    files[1],
    {name: frames[steps] for name, frames in shown.items()},
    [f'+{i - seen_steps}' for i in steps],
    f'Steps since the last frame that the MDN-RNN saw, step {seen_steps}',
  )
  films.save_panels(
    files[2],
    shown,
    [
      f'step {i:4d}: ' + ('watching' if i <= seen_steps else 'dreaming')
      for i in range(num_frames)
    ],
  )
  return files


def main(argv: Sequence[str]) -> None:
  del argv
  logging.info(
    'Dreaming with %s and %s, after episode %d of %s.',
    _VAE.value,
    _MDN_RNN.value,
    _EPISODE.value,
    _DATASET.value,
  )
  runtime.prepare()
  model = world_model.load(_VAE.value, _MDN_RNN.value)
  episodes = loader.episodes(
    _DATASET.value, split='validation', data_dir=_DATA_DIR.value
  )
  episode_id, seen_steps = _EPISODE.value, _SEEN_STEPS.value
  if episode_id >= len(episodes):
    raise errors.DatasetError(
      f'{_DATASET.value} has {len(episodes)} validation episodes, numbered from'
      f' 0; there is no episode {episode_id}'
    )
  output_dir = files.claim_folder(files.expand(_OUTPUT_DIR.value))
  episode = episodes[episode_id]
  if seen_steps >= len(episode) - 1:
    raise errors.DatasetError(
      f'episode {episode_id} has {len(episode)} steps: too few to watch'
      f' {seen_steps} and then dream; choose another --episode or --seen_steps'
    )
  last = seen_steps + _DREAM_STEPS.value
  observation = episode.observation[: last + 1]
  shown = watched_dreams.dream(
    model,
    observation,
    episode.action[: len(observation) - 1],
    seen_steps,
    jax.random.key(_SEED.value),
    _TEMPERATURE.value,
  )
  saved = save(shown, seen_steps, output_dir)
  logging.info('Saved %s', ' and '.join(map(str, saved)))


if __name__ == '__main__':
  command_line.run(main)
