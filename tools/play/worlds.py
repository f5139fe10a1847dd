"""The game and the dream behind one interface: action → what a person sees.

Beside both worlds runs another dream, the branch: it takes the same actions and
restarts from the world every two seconds. So one sees how soon M goes astray in
the game, and what M leaves to chance in a dream.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from carracing_rollouts import culled_car_racing
from carracing_rollouts import environment
from carracing_rollouts import tracks
from gymnasium.envs.box2d import car_racing
import jax
import jax.numpy as jnp
from models import agent
from models import start_states
from models import world_model
import numpy as np
import pygame

# The game's aspect without its dashboard, 10:7; observations are squares.
SIZE = 640, 448
BRANCH_STEPS = 100  # Two seconds.


class View(NamedTuple):
  """What a person sees after a step.

  Attributes:
    pictures: the world and two views beside it, by title: uint8 [H, W, 3],
      0..255, to be shown in the aspect of `SIZE`.
    action: last action, float32 [3]: steering −1..1, gas 0..1, brake 0..1.
    step: number of steps since the start.
    total: sum of the rewards; in a dream, of the rewards that M expects. None
      if M has no such output.
    speed: the car's speed in m/s; None in a dream, which does not know it.
    ending: how the episode ended; empty before.
  """

  pictures: Mapping[str, np.ndarray]
  action: np.ndarray
  step: int
  total: float | None
  speed: float | None
  ending: str


class _PicturedCarRacing(culled_car_racing.CulledCarRacing):
  """The exact simulator, which also keeps a large picture of its last frame."""

  _picture: pygame.Surface

  def picture(self) -> np.ndarray:
    """Returns the last frame without its dashboard, uint8 [448, 640, 3]."""
    return pygame.surfarray.array3d(self._picture).swapaxes(0, 1)

  def _shrink_rows(self, first: int, count: int) -> pygame.Surface:
    if count > car_racing.WINDOW_H / 2:  # The world and not the dashboard.
      rows = self._surface.subsurface((0, first, car_racing.WINDOW_W, count))
      picture = pygame.transform.smoothscale(rows, SIZE)
      self._picture = pygame.transform.flip(picture, False, True)
    return super()._shrink_rows(first, count)


class Game:
  """The exact simulator, beside what V and M make of it.

  Attributes:
    total_name: what the sum of the rewards is called.
  """

  total_name = 'Return'

  def __init__(self, driver: agent.Agent):
    self._driver = driver
    self._game: _PicturedCarRacing | None = None

  def reset(self, seed: int) -> View:
    """Starts an episode; all its random draws depend on the seed alone.

    Args:
      seed: index of the development track; after the last comes the first.
    """
    self.close()
    self._index = seed % len(tracks.DEVELOPMENT)
    self._key = jax.random.key(self._index)
    # A fresh simulator, as in `environment.Environments`.
    self._game = _PicturedCarRacing()
    frame, _ = self._game.reset(seed=tracks.DEVELOPMENT[self._index])
    self._observation = environment.resize(np.asarray(frame)[None])
    self._state = self._branch = _see(self._driver.model, self._observation)
    self._frames = np.asarray(
      _decode(self._driver.model, jnp.repeat(self._state.z, 2, axis=0))
    )
    self._step, self._total = 0, 0.0
    return self._view(np.zeros(3, np.float32), '')

  def step(self, action: np.ndarray | None, temperature: float) -> View:
    """Advances an episode that has not ended by one step.

    Args:
      action: float32 [3]; None if the agent chooses it.
      temperature: sampling temperature of all dreams.
    """
    assert self._game is not None
    state = self._state
    if self._step % BRANCH_STEPS == 0:
      self._branch = state
    if action is None:
      actions, carry = self._driver(
        self._observation, jax.device_get(state.carry)
      )
    else:
      actions, carry = action[None], None
    frame, reward, terminated, _, _ = self._game.step(actions[0])
    self._observation = environment.resize(np.asarray(frame)[None])
    state, self._branch, frames = _watch(
      self._driver.model,
      state,
      self._branch,
      actions,
      self._observation,
      jax.random.fold_in(self._key, self._step),
      temperature,
    )
    # The agent's own carry, so that it drives bit for bit as it always does.
    self._state = state if carry is None else state._replace(carry=carry)
    self._frames = np.asarray(frames)
    self._step += 1
    self._total += float(reward)
    ending = ''
    if terminated:
      lap = environment.lap_completed(terminated, reward)
      ending = 'Lap completed' if lap else 'The car left the playing field'
    return self._view(actions[0], ending)

  def close(self) -> None:
    """Frees the simulator."""
    if self._game is not None:
      self._game.close()
      environment.free(self._game)
      self._game = None

  def _view(self, action: np.ndarray, ending: str) -> View:
    assert self._game is not None and self._game.car is not None
    reconstruction, branch = self._frames
    pictures = {
      f'The game: track {self._index}': self._game.picture(),
      'V: reconstruction from 32 numbers': reconstruction,
      f'M: dreaming for {_branch_seconds(self._step)} s': branch,
    }
    speed = float(np.hypot(*self._game.car.hull.linearVelocity))
    return View(pictures, action, self._step, self._total, speed, ending)


class Dream:
  """M's dream from a real start state, beside another one, as a `Game`."""

  total_name = 'Dreamt return'

  def __init__(self, driver: agent.Agent, starts: start_states.StartStates):
    self._driver, self._starts = driver, starts

  def reset(self, seed: int) -> View:
    """Starts a dream; see `Game.reset`.

    Args:
      seed: seed of the start state and of all draws.
    """
    self._seed = seed
    draw_key, self._key = jax.random.split(jax.random.key(seed))
    state = start_states.draw(
      self._starts, 1, draw_key, world_model.FAITHFUL_NOISE
    )
    # The dream and the one that branches off.
    self._states = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), state)
    self._frames = np.asarray(_decode(self._driver.model, self._states.z))
    self._first = self._frames[0]
    self._step, self._total = 0, 0.0
    return self._view(np.zeros(3, np.float32), '')

  def step(self, action: np.ndarray | None, temperature: float) -> View:
    """See `Game.step`."""
    states = self._states
    if self._step % BRANCH_STEPS == 0:
      states = jax.tree.map(lambda x: jnp.repeat(x[:1], 2, axis=0), states)
    if action is None:
      actions = _act(self._driver, states)
    else:
      actions = action[None]
    actions = np.repeat(actions[:1], 2, axis=0)
    self._states, frames, reward, termination = _imagine(
      self._driver.model,
      states,
      actions,
      jax.random.fold_in(self._key, self._step),
      temperature,
    )
    self._frames = np.asarray(frames)
    self._step += 1
    if reward is None or self._total is None:
      self._total = None
    else:
      self._total += float(reward[0])
    probability = 0.0 if termination is None else float(termination[0])
    ending = ''
    if probability > world_model.LIKELY_TERMINATION:
      ending = f'M ends the dream: termination {probability:.0%}'
    return self._view(actions[0], ending)

  def close(self) -> None:
    """See `Game.close`."""

  def _view(self, action: np.ndarray, ending: str) -> View:
    dream, branch = self._frames
    pictures = {
      f'Dreamt by M from the start state of seed {self._seed}': dream,
      f'Other draws, dreamt for {_branch_seconds(self._step)} s': branch,
      'Where the dream began': self._first,
    }
    return View(pictures, action, self._step, self._total, None, ending)


def _branch_seconds(step: int) -> str:
  """Returns for how many seconds the second dream has been on its own."""
  steps = (step - 1) % BRANCH_STEPS + 1 if step else 0
  return f'{steps / car_racing.FPS:.1f}'


@jax.jit
def _see(
  model: world_model.WorldModel, observation: jax.Array
) -> world_model.State:
  """Returns the state of a new episode with this first observation."""
  z = world_model.encode(model, observation).mean
  return world_model.initial_state(model, z)


@jax.jit
def _watch(
  model: world_model.WorldModel,
  state: world_model.State,
  branch: world_model.State,
  action: jax.Array,
  observation: jax.Array,
  key: jax.Array,
  temperature: jax.Array,
) -> tuple[world_model.State, world_model.State, jax.Array]:
  """Observes a step and dreams it; returns both states and their frames."""
  z = world_model.encode(model, observation).mean
  state = world_model.observe(model, state, action, z)
  branch, _, _ = world_model.imagine(
    model, branch, action, key, temperature, world_model.FAITHFUL_NOISE
  )
  frames = world_model.decode_uint8(model, jnp.concatenate([z, branch.z]))
  return state, branch, frames


@jax.jit
def _imagine(
  model: world_model.WorldModel,
  states: world_model.State,
  action: jax.Array,
  key: jax.Array,
  temperature: jax.Array,
) -> tuple[world_model.State, jax.Array, Any, Any]:
  """Dreams a step; returns states, frames, rewards and terminations."""
  states, reward, termination = world_model.imagine(
    model, states, action, key, temperature, world_model.FAITHFUL_NOISE
  )
  frames = world_model.decode_uint8(model, states.z)
  return states, frames, reward, termination


_act = jax.jit(agent.act)
_decode = jax.jit(world_model.decode_uint8)
