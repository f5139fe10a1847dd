"""The dream as an environment of Gymnasium: `CarRacingDream-v0`.

  import gymnasium
  name = 'models.dream_environment:CarRacingDream-v0'
  env = gymnasium.make(name, render_mode='human')
  envs = gymnasium.make_vec(name, num_envs=64)

No game runs: an episode starts from a real latent vector, M imagines every step
after it, and V decodes what is shown. Rewards are those that M expects; an
episode terminates when M's probability of it exceeds 0.5.
"""

from collections.abc import Sequence
import numbers
import operator
import os
from typing import Any, Literal

from carracing_data import rlds_steps
import cv2
from etils import epy
import gymnasium
from gymnasium import error
from gymnasium import spaces
from gymnasium import vector
from gymnasium.utils import seeding
import jax
import jax.numpy as jnp
from models import agent
from models import start_states
from models import world_model
import numpy as np

with epy.lazy_imports():
  from carracing_data import display  # Only windows need it.

ID = 'CarRacingDream-v0'
_FPS = 50  # As in the game.
_MAX_STEPS = 1000
_MAX_DREAMS = 65_536
_SHOWN_SIZE = 512  # Of what `render` shows of one dream, pixels.


class CarRacingDreams(vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
  """Many dreams at once, in one batch.

  Each of them is what `CarRacingDream` dreams with the same seed, up to
  rounding. The step after the last one of an episode starts the next one.
  """

  metadata = {
    'render_modes': ['rgb_array'],
    'render_fps': _FPS,
    'autoreset_mode': vector.AutoresetMode.NEXT_STEP,
  }

  def __init__(
    self,
    num_envs: int = 1,
    observation: Literal['latent', 'pixels'] = 'latent',
    render_mode: str | None = None,
    max_episode_steps: int | None = _MAX_STEPS,
    temperature: float = 1.0,
    noise: float = world_model.FAITHFUL_NOISE,
    vae: str | os.PathLike[str] = agent.PRETRAINED / 'vae',
    mdn_rnn: str | os.PathLike[str] = agent.PRETRAINED / 'mdn_rnn',
  ):
    """Loads a world model.

    Args:
      num_envs: number of dreams, B.
      observation: what an agent sees: `latent`, z and h, float32 [B, Z + H], by
        default [B, 288]; or `pixels`, frames, uint8 [B, 64, 64, 3], 0..255.
      render_mode: `rgb_array`, frames like these, or None.
      max_episode_steps: steps after which an episode is truncated; None: never.
      temperature: of what is imagined, positive; see `mdn_rnn.Mixture.sample`.
      noise: factor of the noise around what is imagined. With 0, z is a mean,
        as a policy in the game sees the mean of V's posterior, and dreams rank
        policies best. With 1, z is a sample, as M was trained on: a policy that
        is trained in dreams cannot exploit M where it is certain and wrong.
      vae: folder of the exported weights of V; by default those that come with
        this project.
      mdn_rnn: folder of the exported weights of M and its start states.

    Raises:
      error.Error: an argument is invalid.
      weights.WeightsError: weights are missing or damaged, do not belong
        together, or have no start states.
    """
    _check_choice('observation', observation, ['latent', 'pixels'])
    check_render_mode(self, render_mode)
    _check_number('num_envs', num_envs, numbers.Integral, 1, _MAX_DREAMS)
    if max_episode_steps is not None:
      limit = np.iinfo(np.int32).max
      _check_number(
        'max_episode_steps', max_episode_steps, numbers.Integral, 1, limit
      )
    _check_number('temperature', temperature, numbers.Real, 1e-6, 100)
    _check_number('noise', noise, numbers.Real, 0, 100)
    self._model = world_model.load(vae, mdn_rnn)
    world_model.check_dreams(self._model, mdn_rnn)
    self._starts = jax.device_put(start_states.load(mdn_rnn))
    self._temperature, self._noise = temperature, noise
    self._max_steps = np.inf if max_episode_steps is None else max_episode_steps
    self.num_envs, self.render_mode = int(num_envs), render_mode
    self._pixels = observation == 'pixels'
    self.single_observation_space = {
      'latent': latent_space(self._model),
      'pixels': spaces.Box(0, 255, rlds_steps.OBSERVATION_SHAPE, np.uint8),
    }[observation]
    self.single_action_space = spaces.Box(
      rlds_steps.ACTION_LOW, rlds_steps.ACTION_HIGH
    )
    self.observation_space, self.action_space = (
      vector.utils.batch_space(space, self.num_envs)
      for space in (self.single_observation_space, self.single_action_space)
    )
    self._generators = [seeding.np_random()[0] for _ in range(self.num_envs)]
    self._seeds = np.zeros(self.num_envs, np.uint32)
    self._num_steps = np.zeros(self.num_envs, np.int32)
    self._ended = np.zeros(self.num_envs, bool)
    self._state: world_model.State | None = None
    self._frames: np.ndarray | None = None

  def reset(
    self,
    *,
    seed: int | Sequence[int | None] | None = None,
    options: dict[str, Any] | None = None,
  ) -> tuple[np.ndarray, dict[str, Any]]:
    """Starts all dreams; see `gymnasium.vector.VectorEnv.reset`.

    Args:
      seed: seed of the first dream, those of the others follow it; or one for
        each of them.
      options: not used.

    Raises:
      error.Error: seeds are more or fewer than dreams, or one is negative.
    """
    if seed is None:
      seeds = [None] * self.num_envs
    elif isinstance(seed, Sequence | np.ndarray):
      seeds = [None if x is None else operator.index(x) for x in seed]
    else:
      seeds = [operator.index(seed) + i for i in range(self.num_envs)]
    if len(seeds) != self.num_envs:
      raise error.Error(f'{len(seeds)} seeds are for {self.num_envs} dreams')
    self._generators = [
      old if seed is None else seeding.np_random(seed)[0]
      for seed, old in zip(seeds, self._generators, strict=True)
    ]
    self._ended = np.zeros(self.num_envs, bool)
    self.restart(~self._ended)
    return self.observe(), {}

  def step(
    self, actions: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
    """Imagines a step of all dreams; see `gymnasium.vector.VectorEnv.step`.

    Args:
      actions: [B, 3]; clipped to the action space.

    Raises:
      error.ResetNeeded: there was no `reset` before.
      error.InvalidAction: the actions have another shape, or one of them is NaN
        or infinite.
    """
    outcome = self.imagine(actions)
    if self._ended.any():
      self.restart(self._ended)
      outcome = (np.where(self._ended, np.zeros_like(x), x) for x in outcome)
    reward, terminated, truncated = outcome
    self._ended = terminated | truncated
    return self.observe(), reward, terminated, truncated, {}

  def render(self) -> tuple[np.ndarray, ...] | None:
    """Returns a frame of each dream; see `gymnasium.vector.VectorEnv.render`.

    Returns:
      B frames, uint8 [64, 64, 3], 0..255.
    """
    return tuple(self.decoded()) if self.render_mode else None

  def restart(self, new: np.ndarray) -> None:
    """Starts the dreams where `new`, bool [B], is true.

    With `imagine` and `observe`, for environments of another kind, in place of
    `step`, which starts dreams by itself.
    """
    for index in map(int, np.flatnonzero(new)):
      generator = self._generators[index]
      self._seeds[index] = generator.integers(2**32, dtype=np.uint32)
    self._num_steps = np.where(new, 0, self._num_steps)
    started = _draw(self._starts, self._seeds, self._noise)
    if self._state is not None:
      started = jax.tree.map(
        lambda x, y: jnp.where(new[:, None], x, y), started, self._state
      )
    self._state, self._frames = started, None

  def imagine(self, actions: Any) -> Sequence[np.ndarray]:
    """Imagines a step of every dream with actions, [B, 3].

    Returns:
      Expected rewards, float32 [B]; and whether episodes terminated, and
      whether they were truncated, bool [B] each.
    """
    state, actions = self._running(), checked_actions(actions, self.num_envs)
    self._num_steps = self._num_steps + 1
    self._state, reward, termination = _imagine(
      self._model,
      state,
      actions,
      self._seeds,
      self._num_steps,
      self._temperature,
      self._noise,
    )
    self._frames = None
    reward, termination = jax.device_get((reward, termination))
    terminated = termination > world_model.LIKELY_TERMINATION
    return reward, terminated, self._num_steps >= self._max_steps

  def observe(self) -> np.ndarray:
    """Returns what agents see, [B, ...]."""
    if self._pixels:
      return self.decoded()
    return latent_observation(self._running())

  def decoded(self) -> np.ndarray:
    """Returns frames, uint8 [B, 64, 64, 3], 0..255."""
    if self._frames is None:
      self._frames = np.array(_decode(self._model, self._running().z))
    return self._frames.copy()

  def _running(self) -> world_model.State:
    if self._state is None:
      raise error.ResetNeeded('call reset before step and render')
    return self._state


class CarRacingDream(gymnasium.Env[np.ndarray, np.ndarray]):
  """One dream, with the action space of `CarRacing-v3`."""

  metadata = {'render_modes': ['rgb_array', 'human'], 'render_fps': _FPS}

  def __init__(
    self,
    observation: Literal['latent', 'pixels'] = 'latent',
    render_mode: str | None = None,
    **arguments: Any,
  ):
    """Loads a world model.

    Args:
      observation: what an agent sees, see `CarRacingDreams`, without its [B].
      render_mode: `rgb_array`, frames, uint8 [512, 512, 3]; `human`, a window;
        or None.
      **arguments: `temperature`, `noise`, `vae` and `mdn_rnn`, see there.
        `gymnasium.make` truncates episodes.

    Raises:
      error.Error: an argument is invalid.
      weights.WeightsError: see there.
    """
    check_render_mode(self, render_mode)
    self._dreams = CarRacingDreams(
      1, observation, max_episode_steps=None, **arguments
    )
    self.render_mode = render_mode
    self.observation_space = self._dreams.single_observation_space
    self.action_space = self._dreams.single_action_space
    self._screen: Any = None
    self._clock: Any = None

  def reset(
    self, *, seed: int | None = None, options: dict[str, Any] | None = None
  ) -> tuple[np.ndarray, dict[str, Any]]:
    """Starts a dream; see `gymnasium.Env.reset`.

    Args:
      seed: seed of this dream and the ones after it.
      options: not used.
    """
    super().reset(seed=seed)
    self._dreams._generators = [self.np_random]
    self._dreams.restart(np.ones(1, bool))
    if self.render_mode == 'human':
      self.render()
    return self._dreams.observe()[0], {}

  def step(
    self, action: np.ndarray
  ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
    """Imagines a step; see `gymnasium.Env.step`.

    Args:
      action: [3]; clipped to the action space.

    Raises:
      error.ResetNeeded: there was no `reset` before.
      error.InvalidAction: the action has another shape, is NaN or infinite.
    """
    [reward], [terminated], [truncated] = self._dreams.imagine([action])
    if self.render_mode == 'human':
      self.render()
    observation = self._dreams.observe()[0]
    return observation, float(reward), bool(terminated), bool(truncated), {}

  def render(self) -> Any:
    """Shows the dream; see `gymnasium.Env.render`.

    Raises:
      errors.UserError: a window is wanted, and there is no display.
    """
    if self.render_mode is None:
      return None
    [frame] = self._dreams.decoded()
    size = (_SHOWN_SIZE, _SHOWN_SIZE)
    frame = cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)
    if self.render_mode == 'rgb_array':
      return frame
    import pygame  # Only windows need it.

    if self._screen is None:
      with display.connected():
        self._screen = pygame.display.set_mode(size)
      pygame.display.set_caption(ID)
      self._clock = pygame.time.Clock()
    pygame.surfarray.blit_array(self._screen, frame.swapaxes(0, 1))
    pygame.event.pump()
    pygame.display.flip()
    self._clock.tick(_FPS)  # The pace of the game.
    return None

  def close(self) -> None:
    if self._screen is not None:
      import pygame

      pygame.display.quit()
      self._screen = None


def checked_actions(actions: Any, size: int) -> np.ndarray:
  """Returns actions within the action space, float32 [B, 3].

  Raises:
    error.InvalidAction: they have another shape, or one is NaN or infinite.
  """
  shape = (size, rlds_steps.ACTION_SIZE)
  try:
    x = np.asarray(actions).astype(np.float32, casting='same_kind')
  except (TypeError, ValueError):  # Strings, lists of different lengths, ...
    x = np.empty(0)
  if x.shape != shape or not np.isfinite(x).all():
    shown = ' '.join(str(actions).split())[:200]
    raise error.InvalidAction(
      f'actions are finite numbers {list(shape)}, not {shown}'
    )
  return np.clip(x, rlds_steps.ACTION_LOW, rlds_steps.ACTION_HIGH)


def latent_space(model: world_model.WorldModel) -> spaces.Box:
  """Returns the space of z and h, float32 [Z + H]."""
  assert model.m is not None
  sizes = model.v.latent_size, model.m.hidden_size
  bound = np.repeat([start_states.MAX_LATENT, 1], sizes).astype(np.float32)
  return spaces.Box(-bound, bound)


def latent_observation(state: world_model.State) -> np.ndarray:
  """Returns z and h, float32 [B, Z + H], within `latent_space`."""
  z, (_, hidden) = jax.device_get(state)
  z = np.clip(z, -start_states.MAX_LATENT, start_states.MAX_LATENT)
  return np.concatenate([z, hidden], axis=1)


def _check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
  if value not in choices:
    raise error.Error(f'{name} is {value!r}, not one of {[*choices]}')


def check_render_mode(env: Any, render_mode: Any) -> None:
  """Raises gymnasium's Error unless the mode is one of an environment's."""
  modes = env.metadata['render_modes']
  _check_choice('render_mode', render_mode, [None, *modes])


def _check_number(
  name: str, value: Any, kind: type, low: float, high: float
) -> None:
  """Checks a number of a kind: `numbers.Integral` or `numbers.Real`."""
  if not (isinstance(value, kind) and low <= value <= high):
    what = 'an integer' if kind is numbers.Integral else 'a number'
    raise error.Error(f'{name} is {value!r}, not {what} from {low} to {high}')


@jax.jit
def _draw(
  starts: start_states.StartStates, seeds: jax.Array, noise: float
) -> world_model.State:
  """Draws a start state for each seed, [B, ...]."""

  def one(seed):
    return _first(start_states.draw(starts, 1, _key(seed, 0), noise))

  return jax.vmap(one)(seeds)


@jax.jit
def _imagine(
  model: world_model.WorldModel,
  state: world_model.State,
  action: jax.Array,
  seeds: jax.Array,
  num_steps: jax.Array,
  temperature: float,
  noise: float,
) -> Any:
  """Calls `world_model.imagine` with a key for each dream."""

  def one(state, action, seed, step):
    state, action = jax.tree.map(lambda x: x[None], (state, action))
    return _first(
      world_model.imagine(
        model, state, action, _key(seed, step), temperature, noise
      )
    )

  return jax.vmap(one)(state, action, seeds, num_steps)


_decode = jax.jit(world_model.decode_uint8)


def _key(seed: jax.Array, step: int | jax.Array) -> jax.Array:
  return jax.random.fold_in(jax.random.key(seed), step)


def _first(tree: Any) -> Any:
  return jax.tree.map(lambda x: x[0], tree)


gymnasium.register(
  ID,
  entry_point=f'{__name__}:CarRacingDream',
  vector_entry_point=f'{__name__}:CarRacingDreams',
  max_episode_steps=_MAX_STEPS,
)
