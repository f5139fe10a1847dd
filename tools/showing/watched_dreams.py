"""Dreams beside what was recorded: (model, episode) → three versions of it."""

import jax
from models import vae
from models import world_model
import numpy as np


def dream(
  model: world_model.WorldModel,
  observation: np.ndarray,
  action: np.ndarray,
  seen_steps: int,
  key: jax.Array,
  temperature: float,
) -> dict[str, np.ndarray]:
  """Watches the first frames of an episode and dreams the rest.

  Args:
    model: the world model.
    observation: frames, uint8 [N, 64, 64, 3], 0..255.
    action: actions between the frames, float32 [N - 1, 3].
    seen_steps: number of steps that the MDN-RNN watches, 1..N - 2.
    key: random key of the dream.
    temperature: sampling temperature; see `mdn_rnn.Mixture.sample`.

  Returns:
    Three versions of the frames, uint8 [N, 64, 64, 3], 0..255: `frame`, the
    real ones; `VAE`, their reconstructions; `dream`, which equals `VAE` up to
    frame `seen_steps` and is dreamt after it.
  """
  watch, dream_on, decode = map(
    jax.jit, (world_model.watch, world_model.dream, world_model.decode)
  )
  z = world_model.encode_episode(model, observation).mean
  action = action[None]
  state = watch(model, z[None, : seen_steps + 1], action[:, :seen_steps])
  dreamt = dream_on(
    model,
    state,
    action[:, seen_steps:],
    key,
    temperature,
    world_model.FAITHFUL_NOISE,
  ).z[0]
  reconstruction, dreamt = (
    np.asarray(vae.to_uint8(decode(model, x))) for x in (z, dreamt)
  )
  return {
    'frame': observation,
    'VAE': reconstruction,
    'dream': np.concatenate([reconstruction[: seen_steps + 1], dreamt]),
  }
