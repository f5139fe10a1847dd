r"""Measures the errors of dreams over growing horizons.

  python -m tools.dream_errors --vae=runs/vae/weights \
    --mdn_rnn=runs/mdn_rnn/weights

The MDN-RNN dreams from many steps of the validation episodes, given the
recorded actions, and the dreams are compared with the recordings. Prints a
Markdown table; --output also writes the errors as JSON.
"""

from collections.abc import Iterable, Mapping, Sequence

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import documents
from carracing_data import errors
from carracing_data import places
from carracing_rollouts import loader
from carracing_rollouts import schema
import jax
from jax.typing import ArrayLike
from models import vae
from models import world_model
import numpy as np
from tools import markdown
from trainers import runtime

_VAE, _MDN_RNN = command_line.weights_flags()
_DATASET = command_line.dataset_flag()
_DATA_DIR = command_line.data_dir_flag()
_SEED = flags.DEFINE_integer(
  'seed', 0, 'Random seed of the dreams.', lower_bound=0, upper_bound=2**32 - 1
)
_OUTPUT = flags.DEFINE_string(
  'output', None, 'JSON file for the errors; by default none.'
)

HORIZONS = (1, 5, 15, 50)  # In steps; 50 steps are one second.
SEEN_STEPS = 80  # The camera zooms in during the first 50.
_STRIDE = 10  # Steps between the starts of dreams.
_DREAMS = {
  'dream': 1.0,
  'dream, temperature 0.1': 0.1,
}


def measure(
  model: world_model.WorldModel,
  episodes: Iterable[schema.Episode],
  key: jax.Array,
  *,
  horizons: Sequence[int] = HORIZONS,
  seen_steps: int = SEEN_STEPS,
) -> dict[str, dict[str, list[float]]]:
  """Measures the errors of dreams and of their baselines.

  Args:
    model: the world model.
    episodes: episodes to dream in; short ones are skipped.
    key: random key of the dreams.
    horizons: numbers of steps after which a dream is compared.
    seen_steps: number of steps that the MDN-RNN watches before it dreams.

  Returns:
    For each kind of prediction, at each horizon: `latent`, the root mean
    squared error of z against the true posterior mean; and `frame`, the squared
    error of the decoded frame, for pixels in 0..1, summed over pixels. `VAE
    alone` decodes the true latents.

  Raises:
    errors.DatasetError: all episodes are too short.
  """
  watch, dream, decode = map(
    jax.jit, (world_model.watch, world_model.dream, world_model.decode)
  )
  longest = max(horizons)
  ahead = np.subtract(horizons, 1)
  found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}

  def note(name, z, true_z, frames) -> None:
    error = vae.to_float(frames) - decode(model, z)
    found.setdefault(name, []).append(
      (
        np.asarray(((z - true_z) ** 2).mean(-1)),
        np.asarray((error**2).sum((2, 3, 4))),
      )
    )

  for episode in episodes:
    starts = np.arange(seen_steps, len(episode) - longest - 1, _STRIDE)
    if not len(starts):
      continue
    key, dream_key = jax.random.split(key)
    z = world_model.encode_episode(model, episode.observation).mean
    state = watch(
      model,
      _cut(z, starts - seen_steps, seen_steps + 1),
      _cut(episode.action, starts - seen_steps, seen_steps),
    )
    action = _cut(episode.action, starts, longest)
    true_z, frames = (
      _cut(x, starts + 1, longest)[:, ahead] for x in (z, episode.observation)
    )
    for name, temperature in _DREAMS.items():
      dreamt = dream(model, state, action, dream_key, temperature).z
      note(name, dreamt[:, ahead], true_z, frames)
    still = np.broadcast_to(z[starts, None], true_z.shape)
    note('nothing changes', still, true_z, frames)
    note('VAE alone', true_z, true_z, frames)
  if not found:
    raise errors.DatasetError(
      f'no validation episode has more than {seen_steps + longest + 1} steps'
    )
  return {
    name: {
      'latent': np.sqrt(np.concatenate(latent).mean(0)).tolist(),
      'frame': np.concatenate(frame).mean(0).tolist(),
    }
    for name, pairs in found.items()
    for latent, frame in [zip(*pairs)]
  }


def _cut(steps: ArrayLike, starts: np.ndarray, length: int) -> np.ndarray:
  """Cuts segments [N, length, ...] out of an episode [steps, ...]."""
  return np.asarray(steps)[starts[:, None] + np.arange(length)]


def table(
  measured: Mapping[str, Mapping[str, Sequence[float]]],
  horizons: Sequence[int] = HORIZONS,
) -> str:
  """Returns the result of `measure` as a Markdown table."""
  rows = [
    [
      name,
      *(f'{x:.3f}' for x in of['latent']),
      *(f'{x:.1f}' for x in of['frame']),
    ]
    for name, of in measured.items()
  ]
  head = [f'{kind} +{steps}' for kind in ('z', 'frame') for steps in horizons]
  return markdown.table(['', *head], rows)


def main(argv: Sequence[str]) -> None:
  del argv
  runtime.prepare()
  output = None
  if _OUTPUT.value is not None:
    output = places.claim_file(places.expand(_OUTPUT.value))
  model = world_model.load(_VAE.value, _MDN_RNN.value)
  episodes = loader.episodes(
    _DATASET.value, split='validation', data_dir=_DATA_DIR.value
  )
  measured = measure(model, episodes, jax.random.key(_SEED.value))
  print(table(measured))
  if output is not None:
    documents.write(output, measured)
    logging.info('Saved %s', output)


if __name__ == '__main__':
  command_line.run(main)
