"""V and M combined: frames → z and M's carry → imagined next steps.

  model = world_model.load('runs/vae/weights', 'runs/mdn_rnn/weights')
  z = world_model.encode(model, observation).mean
  state = world_model.initial_state(model, z)
  state, reward, termination = world_model.imagine(model, state, action, key)
  frames = world_model.decode(model, state.z)

All functions of a model except `encode_episode` are pure and work under `jit`,
`vmap`, `grad` and `scan`. The model is an argument, so a compiled program runs
with all weights of the same shapes.
"""

from collections.abc import Mapping
import os
from typing import Any, NamedTuple

from carracing_data import rlds_steps
from flax import struct
import jax
import jax.numpy as jnp
from models import lstm
from models import mdn_rnn
from models import vae
from models import weights
import numpy as np

# A dream ends where the probability of termination is higher.
LIKELY_TERMINATION = 0.5
# Of dreams to look at and to compare policies in: z is a mean, as a policy sees
# it in the game. In dreams to train in, 1 keeps a policy from trusting M.
FAITHFUL_NOISE = 0.0
# Batch size of `encode_episode`: its frames fit into a CPU's cache, and a whole
# episode, 1,001 frames, needs only 7 frames of padding.
_CHUNK = 48


@struct.dataclass
class WorldModel:
  """V and M with their weights, a pytree whose leaves are the weights.

  Attributes:
    v: VAE.
    v_variables: weights of V, `{'params': ...}`.
    m: MDN-RNN; None if frames are only encoded and decoded.
    m_variables: weights of M; None if `m` is None.
  """

  v: vae.VAE = struct.field(pytree_node=False)
  v_variables: Mapping[str, Any]
  m: mdn_rnn.MDNRNN | None = struct.field(pytree_node=False, default=None)
  m_variables: Any = None


class State(NamedTuple):
  """The input of an agent: a latent vector and a summary of its past.

  Attributes:
    z: latent vectors, float32 [B, Z].
    carry: M's carry before this `z`: (cell, hidden), float32 [B, H] each.
  """

  z: jax.Array
  carry: lstm.Carry


class Dream(NamedTuple):
  """The steps that M imagined after each of T actions.

  Attributes:
    z: next latent vectors, float32 [B, T, Z].
    reward: expected rewards, float32 [B, T], or None; see `imagine`.
    termination: probabilities, float32 [B, T], or None; see `imagine`.
  """

  z: jax.Array
  reward: jax.Array | None
  termination: jax.Array | None


def load(
  vae_folder: str | os.PathLike[str], mdn_rnn_folder: str | os.PathLike[str]
) -> WorldModel:
  """Loads a VAE and an MDN-RNN that was trained on its latents.

  Args:
    vae_folder: folder of the exported weights of V.
    mdn_rnn_folder: folder of the exported weights of M.

  Raises:
    weights.WeightsError: see `weights.load` and `combined`.
  """
  return combined(
    weights.load(vae_folder, 'vae'), weights.load(mdn_rnn_folder, 'mdn_rnn')
  )


def combined(v: weights.Weights, m: weights.Weights) -> WorldModel:
  """Combines a VAE and an MDN-RNN that was trained on its latents.

  Raises:
    weights.WeightsError: M was trained on the latents of another VAE.
  """
  if (m.training.get('vae_sha256'), m.model.latent_size) != (
    v.sha256,
    v.model.latent_size,
  ):
    raise weights.WeightsError(
      f'{m.folder} was trained on the latents of another VAE than {v.folder};'
      ' pass the folder of that VAE, or build carracing_latents with this one'
      ' and train an MDN-RNN on it'
    )
  variables = jax.device_put((v.variables, m.variables))
  return WorldModel(v.model, variables[0], m.model, variables[1])


def check_dreams(
  model: WorldModel, mdn_rnn_folder: str | os.PathLike[str]
) -> None:
  """Checks that M predicts what a dream needs beside the next z.

  Raises:
    weights.WeightsError: M, from the given folder, predicts neither rewards
      nor terminations.
  """
  if not _m(model).predict_outcomes:
    raise weights.WeightsError(
      f'the MDN-RNN in {mdn_rnn_folder} predicts no rewards; train one with'
      ' --config.predict_outcomes=True'
    )


def encode(model: WorldModel, observation: jax.Array) -> vae.Posterior:
  """Encodes uint8 frames [B, 64, 64, 3], 0..255, to posteriors [B, Z]."""
  rlds_steps.check_frames(observation)
  posterior: Any = model.v.apply(
    model.v_variables, observation, method='encode'
  )
  return posterior


_encode = jax.jit(encode)


def encode_episode(model: WorldModel, observation: np.ndarray) -> vae.Posterior:
  """Encodes the frames of an episode; compiles once for all lengths.

  Args:
    model: world model.
    observation: uint8 [N, 64, 64, 3], 0..255, with N at least 1.

  Returns:
    Posteriors, NumPy arrays [N, Z].
  """
  rlds_steps.check_frames(observation)
  size = len(observation)
  padding = (0, -size % _CHUNK), (0, 0), (0, 0), (0, 0)
  padded = np.pad(observation, padding)
  chunks = padded.reshape(-1, _CHUNK, *observation.shape[1:])
  # All are dispatched before the first result is waited for.
  posteriors = jax.device_get([_encode(model, chunk) for chunk in chunks])
  return jax.tree.map(lambda *x: np.concatenate(x)[:size], *posteriors)


def decode(model: WorldModel, z: jax.Array) -> jax.Array:
  """Decodes float32 [..., Z] to float32 frames [..., 64, 64, 3] in 0..1."""
  rows = z.reshape(-1, z.shape[-1])
  frames: Any = model.v.apply(model.v_variables, rows, method='decode')
  return frames.reshape(*z.shape[:-1], *frames.shape[1:])


def decode_uint8(model: WorldModel, z: jax.Array) -> jax.Array:
  """Decodes float32 [..., Z] to uint8 frames [..., 64, 64, 3] in 0..255."""
  return vae.to_uint8(decode(model, z))


def initial_state(model: WorldModel, z: jax.Array) -> State:
  """Returns the state of new episodes that start with `z`, [B, Z]."""
  return State(z, _m(model).initial_carry(len(z)))


def predict(
  model: WorldModel, state: State, action: jax.Array
) -> tuple[mdn_rnn.Prediction, lstm.Carry]:
  """Predicts the next step.

  Args:
    model: world model.
    state: state before the action.
    action: actions, float32 [B, A].

  Returns:
    M's prediction, [B, ...], and its carry after the action.
  """
  z, action = state.z[:, None], action[:, None]
  prediction, carry = _apply_m(model, z, action, state.carry)
  return jax.tree.map(lambda x: x[:, 0], prediction), carry


def observe(
  model: WorldModel, state: State, action: jax.Array, z: jax.Array
) -> State:
  """Updates the state with an observed step.

  Args:
    model: world model.
    state: state before the action.
    action: actions taken, float32 [B, A].
    z: latent vectors observed after them, float32 [B, Z].

  Returns:
    The state after the action.
  """
  _, carry = predict(model, state, action)
  return State(z, carry)


def imagine(
  model: WorldModel,
  state: State,
  action: jax.Array,
  key: jax.Array,
  temperature: float | jax.Array = 1.0,
  noise: float | jax.Array = 1.0,
) -> tuple[State, jax.Array | None, jax.Array | None]:
  """Samples the next state from the prediction of M.

  Args:
    model: world model.
    state: state before the action.
    action: actions, float32 [B, A].
    key: random key for sampling.
    temperature: float32 [], at least 0, see `mdn_rnn.Mixture.sample`.
    noise: float32 [], at least 0, see there.

  Returns:
    The state after the action; the expected reward, float32 [B]; and the
    probability that the action ends the task, float32 [B] in 0..1. The latter
    two are None if M has no such outputs.
  """
  (mixture, reward, termination_logit), carry = predict(model, state, action)
  return (
    State(mixture.sample(key, temperature, noise), carry),
    None if reward is None else reward.mean(),
    None if termination_logit is None else jax.nn.sigmoid(termination_logit),
  )


def watch(model: WorldModel, z: jax.Array, action: jax.Array) -> State:
  """Returns the state after an observed sequence, faster than `observe`.

  Args:
    model: world model.
    z: latent vectors, float32 [B, T + 1, Z], with T at least 0.
    action: actions taken between them, float32 [B, T, A].

  Returns:
    The state at the last `z`.
  """
  _, carry = _apply_m(model, z[:, :-1], action)
  return State(z[:, -1], carry)


def predict_sequence(
  model: WorldModel, z: jax.Array, action: jax.Array
) -> mdn_rnn.Prediction:
  """Predicts along an observed sequence, one step ahead.

  Args:
    model: world model.
    z: latent vectors, float32 [B, T, Z]; M has seen nothing before them.
    action: action taken after each of them, float32 [B, T, A].

  Returns:
    The predictions of the step after each action, [B, T, ...].
  """
  return _apply_m(model, z, action)[0]


def dream(
  model: WorldModel,
  state: State,
  action: jax.Array,
  key: jax.Array,
  temperature: float | jax.Array = 1.0,
  noise: float | jax.Array = 1.0,
) -> Dream:
  """Rolls out M on its own samples: each sampled `z` is the next input.

  Args:
    model: world model.
    state: state before the first action.
    action: actions, float32 [B, T, A].
    key: random key for sampling.
    temperature: float32 [], at least 0, see `mdn_rnn.Mixture.sample`.
    noise: float32 [], at least 0, see there.
  """

  def step(state, x):
    action, key = x
    state, reward, termination = imagine(
      model, state, action, key, temperature, noise
    )
    return state, Dream(state.z, reward, termination)

  keys = jax.random.split(key, action.shape[1])
  _, dreamt = jax.lax.scan(step, state, (jnp.swapaxes(action, 0, 1), keys))
  return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), dreamt)


def _apply_m(
  model: WorldModel,
  z: jax.Array,
  action: jax.Array,
  carry: lstm.Carry | None = None,
) -> Any:
  carry = _m(model).initial_carry(len(z)) if carry is None else carry
  return _m(model).apply(model.m_variables, z, action, carry)


def _m(model: WorldModel) -> mdn_rnn.MDNRNN:
  if model.m is None:
    raise ValueError('this world model has no MDN-RNN')
  return model.m
