r"""How far a dream goes astray, over growing horizons.

  python -m tools.dream_errors --vae=runs/vae/weights \
    --mdn_rnn=runs/mdn_rnn/weights

From many places of the validation episodes the MDN-RNN dreams on, given the
actions that were really taken. What it dreams is compared with what came.
"""

from collections.abc import Mapping, Sequence
import functools
from pathlib import Path

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import documents
from carracing_data import errors
from carracing_data import places
from carracing_rollouts import loader
import jax
import jax.numpy as jnp
from models import mdn_rnn
from models import vae
from models import weights
import numpy as np
from tools import markdown

_VAE, _MDN_RNN = command_line.weights_flags()
_DATASET = command_line.dataset_flag()
_DATA_DIR = command_line.data_dir_flag()
_SEED = flags.DEFINE_integer(
  'seed', 0, "Seed of the dreams' draws.", lower_bound=0, upper_bound=2**32 - 1
)
_OUTPUT = flags.DEFINE_string('output', None, 'JSON file to write, if any.')

HORIZONS = (1, 5, 15, 50)  # Steps; 50 are a second.
_SEEN_STEPS = 80  # The camera zooms in during the first 50.
_STRIDE = 10  # Steps between the places to dream from.
_DREAMS = {
  'dream': 1.0,
  'dream, temperature 0.1': 0.1,
}


def measure(
  vae_folder: str | Path,
  mdn_rnn_folder: str | Path,
  dataset: str,
  seed: int,
  data_dir: str | None,
) -> dict[str, dict[str, list[float]]]:
  """Measures dreams and what they are to be compared with.

  Args:
    vae_folder: exported weights of a VAE.
    mdn_rnn_folder: exported weights of an MDN-RNN on this VAE's latents.
    dataset: rollouts, see `prepared.find`.
    seed: of the dreams' draws.
    data_dir: see `prepared.find`.

  Returns:
    For each kind of prediction, at each of `HORIZONS`: `latent`, the root of
    the mean squared difference between a latent number and its true posterior
    mean; and `frame`, the squared error of the decoded frame, summed over
    pixels in 0..1. `VAE alone` decodes the true latents.

  Raises:
    errors.DatasetError: there is no such dataset, or its episodes are short.
    weights.WeightsError: weights are missing, or the MDN-RNN was trained on the
      latents of another VAE.
  """
  v, m = weights.load_world_model(vae_folder, mdn_rnn_folder)
  encode, decode = (
    jax.jit(functools.partial(v.model.apply, v.variables, method=method))
    for method in (vae.VAE.encode, vae.VAE.decode)
  )
  watch = jax.jit(functools.partial(m.model.apply, m.variables))
  dream = jax.jit(functools.partial(mdn_rnn.dream, m.model, m.variables))
  key = jax.random.key(seed)
  found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}

  def note(name, z, true_z, frames) -> None:
    error = vae.to_float(frames) - _decoded(decode, z)
    found.setdefault(name, []).append(
      (
        np.asarray(((z - true_z) ** 2).mean(-1)),
        np.asarray((error**2).sum((2, 3, 4))),
      )
    )

  for episode in loader.episodes(
    dataset, split='validation', data_dir=data_dir
  ):
    starts = np.arange(_SEEN_STEPS, len(episode) - max(HORIZONS) - 1, _STRIDE)
    if not len(starts):
      continue
    key, dream_key = jax.random.split(key)
    z = encode(episode.observation).mean
    seen = _cut(
      np.concatenate([z, episode.action], -1), starts - _SEEN_STEPS, _SEEN_STEPS
    )
    _, carry = watch(seen, m.model.initial_carry(len(starts)))
    action = _cut(episode.action, starts, max(HORIZONS))
    ahead = np.subtract(HORIZONS, 1)
    true_z = _cut(np.asarray(z), starts + 1, max(HORIZONS))[:, ahead]
    frames = _cut(episode.observation, starts + 1, max(HORIZONS))[:, ahead]
    for name, temperature in _DREAMS.items():
      dreamt = dream(
        carry, z[starts], action, dream_key, temperature=temperature
      )
      note(name, dreamt[:, ahead], true_z, frames)
    still = np.broadcast_to(np.asarray(z)[starts, None], true_z.shape)
    note('nothing changes', still, true_z, frames)
    note('VAE alone', true_z, true_z, frames)
  if not found:
    raise errors.DatasetError(
      f'no validation episode of {dataset} has more than'
      f' {_SEEN_STEPS + max(HORIZONS) + 1} steps'
    )
  return {
    name: {
      'latent': np.sqrt(np.concatenate(latent).mean(0)).tolist(),
      'frame': np.concatenate(frame).mean(0).tolist(),
    }
    for name, pairs in found.items()
    for latent, frame in [zip(*pairs)]
  }


def _cut(steps: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
  """Cuts pieces [N, length, ...] out of an episode [steps, ...]."""
  return steps[starts[:, None] + np.arange(length)]


def _decoded(decode, z) -> jax.Array:
  """Decodes [N, H, Z] to frames [N, H, 64, 64, 3]."""
  frames = decode(jnp.reshape(z, (-1, z.shape[-1])))
  return frames.reshape(*z.shape[:2], *frames.shape[1:])


def table(measured: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
  """Returns what `measure` found as a Markdown table."""
  rows = [
    [
      name,
      *(f'{x:.3f}' for x in of['latent']),
      *(f'{x:.1f}' for x in of['frame']),
    ]
    for name, of in measured.items()
  ]
  head = [f'{kind} +{steps}' for kind in ('z', 'frame') for steps in HORIZONS]
  return markdown.table(['', *head], rows)


def main(argv: Sequence[str]) -> None:
  del argv
  output = None
  if _OUTPUT.value is not None:
    output = places.claim_file(places.expand(_OUTPUT.value))
  measured = measure(
    _VAE.value, _MDN_RNN.value, _DATASET.value, _SEED.value, _DATA_DIR.value
  )
  print(table(measured))
  if output is not None:
    documents.write(output, measured)
    logging.info('Saved %s', output)


if __name__ == '__main__':
  command_line.run(main)
