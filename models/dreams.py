"""Dreams side by side, each of which has its own random numbers."""

from collections.abc import Sequence
import os
from typing import Any, Literal

from carracing_data import rlds_steps
from gymnasium import error
from gymnasium import spaces
import jax
import jax.numpy as jnp
from models import start_states
from models import world_model
import numpy as np

Folder = str | os.PathLike[str]
Observation = Literal['latent', 'pixels']


class Dreams:
  """B dreams of a world model.

  Attributes:
    observation_space: of one dream.
    action_space: of one dream.
  """

  def __init__(
    self,
    size: int,
    observation: Observation,
    max_steps: int,
    temperature: float,
    vae: Folder,
    mdn_rnn: Folder,
  ):
    """Loads a world model; see `CarRacingDream`."""
    if observation not in ('latent', 'pixels'):
      raise error.Error(
        f"observation is {observation!r}, not 'latent' or 'pixels'"
      )
    if not _is_number(temperature) or not 0 < temperature <= 100:
      raise error.Error(
        f'temperature is {temperature!r}, not positive and at most 100'
      )
    if not _is_number(max_steps) or max_steps < 1 or max_steps % 1:
      raise error.Error(f'max_steps is {max_steps!r}, not a positive integer')
    for name, folder in ('vae', vae), ('mdn_rnn', mdn_rnn):
      if not isinstance(folder, str | os.PathLike):
        raise error.Error(f'{name} is {folder!r}, not a folder')
    self._model = world_model.load(vae, mdn_rnn)
    world_model.check_dreams(self._model, mdn_rnn)
    assert self._model.m is not None
    self._starts = jax.device_put(start_states.load(mdn_rnn))
    self._temperature, self._max_steps = temperature, max_steps
    self._pixels = observation == 'pixels'
    sizes = self._model.v.latent_size, self._model.m.hidden_size
    bound = np.repeat([start_states.MAX_LATENT, 1], sizes).astype(np.float32)
    self.observation_space = spaces.Box(-bound, bound)
    if self._pixels:
      self.observation_space = spaces.Box(
        0, 255, rlds_steps.OBSERVATION_SHAPE, np.uint8
      )
    self.action_space = spaces.Box(
      rlds_steps.ACTION_LOW, rlds_steps.ACTION_HIGH
    )
    self._seeds = np.zeros(size, np.uint32)
    self._num_steps = np.zeros(size, np.int32)
    self._state: world_model.State | None = None
    self._frames: np.ndarray | None = None

  def start(self, generators: Sequence[np.random.Generator], new: Any) -> None:
    """Starts dreams anew.

    Args:
      generators: source of the random draws of each dream.
      new: which of the dreams, bool [B].
    """
    for index in map(int, np.flatnonzero(new)):
      self._seeds[index] = generators[index].integers(2**32, dtype=np.uint32)
    self._num_steps = np.where(new, 0, self._num_steps)
    started = _start(self._starts, self._seeds)
    if self._state is not None:
      started = _select(new, started, self._state)
    self._state, self._frames = started, None

  def step(self, action: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Imagines a step of every dream.

    Args:
      action: [B, 3].

    Returns:
      Expected rewards, float32 [B]; and whether episodes terminated, and
      whether they were truncated, bool [B] each.
    """
    state = self._running()
    action = self._checked(action)
    self._num_steps = self._num_steps + 1
    self._state, reward, termination = _imagine(
      self._model,
      state,
      action,
      self._seeds,
      self._num_steps,
      self._temperature,
    )
    self._frames = None
    reward, termination = jax.device_get((reward, termination))
    terminated = termination > world_model.LIKELY_TERMINATION
    return reward, terminated, self._num_steps >= self._max_steps

  def observe(self) -> np.ndarray:
    """Returns what agents see, [B, ...]."""
    if self._pixels:
      return self.frames()
    z, (_, hidden) = jax.device_get(self._running())
    z = np.clip(z, -start_states.MAX_LATENT, start_states.MAX_LATENT)
    return np.concatenate([z, hidden], axis=1)

  def frames(self) -> np.ndarray:
    """Returns frames, uint8 [B, 64, 64, 3], 0..255."""
    if self._frames is None:
      self._frames = np.array(_decode(self._model, self._running().z))
    return self._frames.copy()

  def _running(self) -> world_model.State:
    if self._state is None:
      raise error.ResetNeeded('call reset before step and render')
    return self._state

  def _checked(self, action: Any) -> np.ndarray:
    """Returns actions within the action space, float32 [B, 3]."""
    shape = len(self._seeds), rlds_steps.ACTION_SIZE
    try:
      action = np.asarray(action, np.float32)
    except (TypeError, ValueError):
      raise error.InvalidAction(
        f'an action is {str(action)[:50]!r}, not three numbers'
      ) from None
    if len(np.atleast_1d(action)) != shape[0]:
      raise error.InvalidAction(
        f'there are {len(np.atleast_1d(action))} actions for {shape[0]} dreams'
      )
    if action.shape != shape:
      raise error.InvalidAction(
        f'an action has the shape {list(action.shape[1:])}, not'
        f' {list(shape[1:])}'
      )
    if not np.isfinite(action).all():
      raise error.InvalidAction('an action is NaN or infinite')
    return np.clip(action, rlds_steps.ACTION_LOW, rlds_steps.ACTION_HIGH)


def _is_number(x: Any) -> bool:
  return isinstance(x, int | float | np.number) and not isinstance(x, bool)


@jax.jit
def _start(
  starts: start_states.StartStates, seeds: jax.Array
) -> world_model.State:
  """Draws a start state for each seed, [B, ...]."""

  def one(seed):
    return _first(start_states.draw(starts, 1, _key(seed, 0)))

  return jax.vmap(one)(seeds)


@jax.jit
def _imagine(
  model: world_model.WorldModel,
  state: world_model.State,
  action: jax.Array,
  seeds: jax.Array,
  num_steps: jax.Array,
  temperature: float,
) -> Any:
  """Calls `world_model.imagine` with a key for each dream."""

  def one(state, action, seed, step):
    state, action = jax.tree.map(lambda x: x[None], (state, action))
    return _first(
      world_model.imagine(model, state, action, _key(seed, step), temperature)
    )

  return jax.vmap(one)(state, action, seeds, num_steps)


@jax.jit
def _select(new: jax.Array, started: Any, running: Any) -> Any:
  return jax.tree.map(
    lambda x, y: jnp.where(new[:, None], x, y), started, running
  )


@jax.jit
def _decode(model: world_model.WorldModel, z: jax.Array) -> jax.Array:
  return world_model.decode_uint8(model, z)


def _key(seed: jax.Array, step: int | jax.Array) -> jax.Array:
  return jax.random.fold_in(jax.random.key(seed), step)


def _first(tree: Any) -> Any:
  return jax.tree.map(lambda x: x[0], tree)
