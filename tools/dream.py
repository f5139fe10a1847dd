"""Shows what the world model learnt: frames, reconstructions and a dream.

  python -m tools.dream --vae=runs/vae/weights --mdn_rnn=runs/mdn_rnn/weights

The MDN-RNN watches the first steps of a validation episode. Then it goes on by
itself: it is given the actions that were really taken, but instead of real
frames its own predictions.
"""

from collections.abc import Sequence
import functools
import math
from pathlib import Path

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import errors
from carracing_data import places
from carracing_rollouts import loader
import jax
import jax.numpy as jnp
from models import mdn_rnn
from models import vae
from models import weights
import numpy as np
from tools import pictures

_VAE, _MDN_RNN = command_line.weights_flags()
_DATASET = command_line.dataset_flag()
_EPISODE = flags.DEFINE_integer(
  'episode', 0, 'Number of the validation episode.', lower_bound=0
)
_SEEN_STEPS = flags.DEFINE_integer(
  'seen_steps',
  80,
  'Number of steps to watch. The camera zooms in during the first 50.',
  lower_bound=1,
)
_DREAM_STEPS = flags.DEFINE_integer(
  'dream_steps', 100, 'Number of steps to dream.', lower_bound=1
)
_TEMPERATURE = flags.DEFINE_float(
  'temperature',
  1.0,
  'Below 1 the dream is more certain than the model; 0 is the likeliest one.',
  lower_bound=0,
  upper_bound=100,
)
flags.register_validator('temperature', math.isfinite, 'It must be a number.')
_SEED = flags.DEFINE_integer(
  'seed', 0, "Seed of the dream's draws.", lower_bound=0, upper_bound=2**32 - 1
)
_DATA_DIR = command_line.data_dir_flag()
_OUTPUT_DIR = command_line.output_dir_flag('dream')
_COLUMNS = 10


def show(
  vae_folder: str | Path,
  mdn_rnn_folder: str | Path,
  dataset: str,
  episode_id: int,
  seen_steps: int,
  dream_steps: int,
  temperature: float,
  seed: int,
  data_dir: str | None,
  output_dir: Path,
) -> list[Path]:
  """Saves reconstructions (PNG) and a dream (PNG and MP4) of an episode.

  Args:
    vae_folder: exported weights of a VAE.
    mdn_rnn_folder: exported weights of an MDN-RNN on this VAE's latents.
    dataset: rollouts, see `prepared.find`.
    episode_id: which validation episode.
    seen_steps: steps that the MDN-RNN watches, at least 1.
    dream_steps: steps that it dreams, at least 1; fewer if the episode ends.
    temperature: see `mdn_rnn.Mixture.sample`.
    seed: of the dream's draws.
    data_dir: see `prepared.find`.
    output_dir: where to.

  Returns:
    The files.

  Raises:
    errors.DatasetError: there is no such dataset or episode, or it is shorter
      than `seen_steps`.
    errors.PlaceError: the output cannot be written.
    weights.WeightsError: weights are missing, or the MDN-RNN was trained on the
      latents of another VAE.
  """
  v, m = weights.load_world_model(vae_folder, mdn_rnn_folder)
  episodes = loader.episodes(dataset, split='validation', data_dir=data_dir)
  if not 0 <= episode_id < len(episodes):
    raise errors.DatasetError(
      f'{dataset} has {len(episodes)} validation episodes, numbered from 0;'
      f' there is no episode {episode_id}'
    )
  places.claim_folder(output_dir)
  episode = episodes[episode_id]
  if not 1 <= seen_steps < len(episode) - 1:
    raise errors.DatasetError(
      f'episode {episode_id} has {len(episode)} steps: too few to watch'
      f' {seen_steps} and dream on; choose another --episode or --seen_steps'
    )
  frames = episode.observation[: seen_steps + 1 + dream_steps]
  actions = jnp.asarray(episode.action[: len(frames)])

  encode, decode = (
    jax.jit(functools.partial(v.model.apply, v.variables, method=method))
    for method in (vae.VAE.encode, vae.VAE.decode)
  )
  z = encode(frames).mean
  reconstructions = np.asarray(vae.to_uint8(decode(z)))
  seen = jnp.concatenate([z, actions], axis=-1)[None, :seen_steps]
  _, carry = m.model.apply(m.variables, seen, m.model.initial_carry(1))
  dreamt = mdn_rnn.dream(
    m.model,
    m.variables,
    carry,
    z[None, seen_steps],
    actions[None, seen_steps:-1],
    jax.random.key(seed),
    temperature,
  )[0]
  dream_frames = np.concatenate(
    [
      reconstructions[: seen_steps + 1],
      np.asarray(vae.to_uint8(decode(dreamt))),
    ]
  )

  def columns(first: int, last: int) -> np.ndarray:
    return np.linspace(first, last, _COLUMNS).round().astype(int)

  files = [
    output_dir / name
    for name in ('reconstructions.png', 'dream.png', 'dream.mp4')
  ]
  shown = columns(0, len(frames) - 1)
  pictures.save_strip(
    files[0],
    {'frame': frames[shown], 'VAE': reconstructions[shown]},
    [f'step {i}' for i in shown],
    'Frames and their reconstructions from 32 numbers',
  )
  shown = columns(seen_steps, len(frames) - 1)
  pictures.save_strip(
    files[1],
    {
      'frame': frames[shown],
      'VAE': reconstructions[shown],
      'dream': dream_frames[shown],
    },
    [f'+{i - seen_steps}' for i in shown],
    f'Steps since the last frame that the MDN-RNN saw, step {seen_steps}',
  )
  pictures.save_video(
    files[2],
    {'frame': frames, 'VAE': reconstructions, 'dream': dream_frames},
    [
      f'step {i:4d}: ' + ('watching' if i <= seen_steps else 'dreaming')
      for i in range(len(frames))
    ],
  )
  return files


def main(argv: Sequence[str]) -> None:
  del argv
  files = show(
    vae_folder=_VAE.value,
    mdn_rnn_folder=_MDN_RNN.value,
    dataset=_DATASET.value,
    episode_id=_EPISODE.value,
    seen_steps=_SEEN_STEPS.value,
    dream_steps=_DREAM_STEPS.value,
    temperature=_TEMPERATURE.value,
    seed=_SEED.value,
    data_dir=_DATA_DIR.value,
    output_dir=places.expand(_OUTPUT_DIR.value),
  )
  logging.info('Saved %s', ' and '.join(map(str, files)))


if __name__ == '__main__':
  command_line.run(main)
