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
import operator
from typing import Any
import warnings

import gymnasium
from gymnasium import error
from gymnasium import vector
from gymnasium.utils import seeding
from models import agent
from models import dreams
import numpy as np

ID = 'CarRacingDream-v0'
_FPS = 50  # As in the game.
_MAX_STEPS = 1000
_WINDOW_SIZE = 512  # Pixels.


class CarRacingDream(gymnasium.Env[np.ndarray, np.ndarray]):
  """One dream, with the action space of `CarRacing-v3`."""

  metadata = {'render_modes': ['rgb_array', 'human'], 'render_fps': _FPS}

  def __init__(
    self,
    observation: dreams.Observation = 'latent',
    render_mode: str | None = None,
    max_steps: int = _MAX_STEPS,
    temperature: float = 1.0,
    vae: dreams.Folder = agent.PRETRAINED / 'vae',
    mdn_rnn: dreams.Folder = agent.PRETRAINED / 'mdn_rnn',
  ):
    """Loads a world model.

    Args:
      observation: what an agent sees: `latent`, z and h, float32 [Z + H], by
        default [288]; or `pixels`, frames, uint8 [64, 64, 3], 0..255.
      render_mode: `rgb_array`, frames like these; `human`, a window; or None.
      max_steps: steps after which an episode is truncated.
      temperature: of what is imagined, positive; see `mdn_rnn.Mixture.sample`.
      vae: folder of the exported weights of V; by default those that come with
        this project.
      mdn_rnn: folder of the exported weights of M and its start states.

    Raises:
      error.Error: an argument is invalid.
      weights.WeightsError: weights are missing or damaged, do not belong
        together, or have no start states.
    """
    if render_mode not in (None, *self.metadata['render_modes']):
      raise error.UnsupportedMode(
        f"render_mode is {render_mode!r}, not 'rgb_array', 'human' or None"
      )
    self._dreams = dreams.Dreams(
      1, observation, max_steps, temperature, vae, mdn_rnn
    )
    self.render_mode = render_mode
    self.observation_space = self._dreams.observation_space
    self.action_space = self._dreams.action_space
    self._window: Any = None

  def reset(
    self, *, seed: int | None = None, options: dict[str, Any] | None = None
  ) -> tuple[np.ndarray, dict[str, Any]]:
    """Starts a dream; see `gymnasium.Env.reset`.

    Args:
      seed: seed of this dream and the ones after it.
      options: not used.
    """
    super().reset(seed=seed)
    self._dreams.start([self.np_random], np.ones(1, bool))
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
    [reward], [terminated], [truncated] = self._dreams.step([action])
    if self.render_mode == 'human':
      self.render()
    observation = self._dreams.observe()[0]
    return observation, float(reward), bool(terminated), bool(truncated), {}

  def render(self) -> Any:
    """Shows the dream; see `gymnasium.Env.render`."""
    if self.render_mode is None:
      # Not Gymnasium's logger, which colours its warnings in log files, too.
      warnings.warn('render does nothing without a render_mode', stacklevel=2)
      return None
    [frame] = self._dreams.frames()
    if self.render_mode == 'rgb_array':
      return frame
    if self._window is None:
      self._window = _Window()
    self._window.show(frame)
    return None

  def close(self) -> None:
    if self._window is not None:
      self._window.close()
      self._window = None


class _Window:
  """A window that shows frames at the pace of the game."""

  def __init__(self):
    import pygame  # Only windows need it.

    self._pygame = pygame
    pygame.display.init()
    self._screen = pygame.display.set_mode((_WINDOW_SIZE, _WINDOW_SIZE))
    pygame.display.set_caption(ID)
    self._clock = pygame.time.Clock()

  def show(self, frame: np.ndarray) -> None:
    transform = self._pygame.transform
    surface = self._pygame.surfarray.make_surface(frame.swapaxes(0, 1))
    transform.smoothscale(surface, self._screen.get_size(), self._screen)
    self._pygame.event.pump()
    self._pygame.display.flip()
    self._clock.tick(_FPS)

  def close(self) -> None:
    self._pygame.display.quit()


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
    observation: dreams.Observation = 'latent',
    render_mode: str | None = None,
    max_steps: int = _MAX_STEPS,
    temperature: float = 1.0,
    vae: dreams.Folder = agent.PRETRAINED / 'vae',
    mdn_rnn: dreams.Folder = agent.PRETRAINED / 'mdn_rnn',
    max_episode_steps: int | None = None,
  ):
    """Loads a world model; see `CarRacingDream`.

    Args:
      num_envs: number of dreams, B.
      observation: as there, with a leading [B].
      render_mode: `rgb_array` or None.
      max_steps: as there.
      temperature: as there.
      vae: as there.
      mdn_rnn: as there.
      max_episode_steps: Gymnasium's name of `max_steps`, if that is given.

    Raises:
      error.Error: an argument is invalid.
      weights.WeightsError: see there.
    """
    if render_mode not in (None, 'rgb_array'):
      raise error.UnsupportedMode(
        f"render_mode is {render_mode!r}, not 'rgb_array' or None"
      )
    if not isinstance(num_envs, int | np.integer) or num_envs < 1:
      raise error.Error(f'num_envs is {num_envs!r}, not a positive integer')
    num_envs = int(num_envs)
    if max_episode_steps is not None:
      max_steps = max_episode_steps
    self._dreams = dreams.Dreams(
      num_envs, observation, max_steps, temperature, vae, mdn_rnn
    )
    self.num_envs, self.render_mode = num_envs, render_mode
    self.single_observation_space = self._dreams.observation_space
    self.single_action_space = self._dreams.action_space
    self.observation_space = vector.utils.batch_space(
      self.single_observation_space, num_envs
    )
    self.action_space = vector.utils.batch_space(
      self.single_action_space, num_envs
    )
    self._generators: list[np.random.Generator] = []
    self._ended = np.zeros(num_envs, bool)

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
    """
    if isinstance(seed, Sequence | np.ndarray):
      first = [None if x is None else operator.index(x) for x in seed]
    elif seed is None:
      first = [None] * self.num_envs
    else:
      first = [operator.index(seed) + i for i in range(self.num_envs)]
    if len(first) != self.num_envs:
      raise error.Error(
        f'there are {len(first)} seeds for {self.num_envs} dreams'
      )
    generators = self._generators or [None] * self.num_envs
    self._generators = [
      seeding.np_random(seed)[0] if seed is not None or old is None else old
      for seed, old in zip(first, generators)
    ]
    self._ended = np.zeros(self.num_envs, bool)
    self._dreams.start(self._generators, ~self._ended)
    return self._dreams.observe(), {}

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
    reward, terminated, truncated = self._dreams.step(actions)
    if self._ended.any():
      self._dreams.start(self._generators, self._ended)
      reward, terminated, truncated = (
        np.where(self._ended, np.zeros_like(x), x)
        for x in (reward, terminated, truncated)
      )
    self._ended = terminated | truncated
    return self._dreams.observe(), reward, terminated, truncated, {}

  def render(self) -> tuple[np.ndarray, ...] | None:
    """Returns a frame of each dream; see `gymnasium.vector.VectorEnv.render`.

    Returns:
      B frames, uint8 [64, 64, 3], 0..255.
    """
    if self.render_mode is None:
      warnings.warn('render does nothing without a render_mode', stacklevel=2)
      return None
    return tuple(self._dreams.frames())


gymnasium.register(
  ID,
  entry_point=f'{__name__}:CarRacingDream',
  vector_entry_point=f'{__name__}:CarRacingDreams',
)
