"""The game as V and M see it, an environment: `CarRacingLatent-v0`.

  import gymnasium
  env = gymnasium.make('models.latent_environment:CarRacingLatent-v0')

Observations, actions and time limit are those of `CarRacingDream-v0`, so what
was trained in dreams drives in the game, and the other way round. Rewards and
ends are the game's.
"""

import contextlib
import os
from typing import Any

from carracing_data import display
from carracing_data import rlds_steps
from carracing_rollouts import environment
import gymnasium
from gymnasium import error
from gymnasium import spaces
from gymnasium.envs.box2d import car_racing
import jax
from models import agent
from models import dream_environment
from models import world_model
import numpy as np

ID = 'CarRacingLatent-v0'


class CarRacingLatent(gymnasium.Env[np.ndarray, np.ndarray]):
  """The stock game, whose observations are z and h, float32 [Z + H]."""

  metadata = car_racing.CarRacing.metadata

  def __init__(
    self,
    render_mode: str | None = None,
    vae: str | os.PathLike[str] = agent.PRETRAINED / 'vae',
    mdn_rnn: str | os.PathLike[str] = agent.PRETRAINED / 'mdn_rnn',
  ):
    """Loads a world model; `gymnasium.make` truncates episodes.

    Args:
      render_mode: as of the game.
      vae: folder of the exported weights of V.
      mdn_rnn: folder of the exported weights of M.

    Raises:
      weights.WeightsError: weights are missing or damaged, or do not belong
        together.
      error.Error: there is no such mode.
    """
    dream_environment.check_render_mode(self, render_mode)
    self._game: Any = car_racing.CarRacing(render_mode=render_mode)
    self.render_mode = render_mode
    self.action_space = spaces.Box(
      rlds_steps.ACTION_LOW, rlds_steps.ACTION_HIGH
    )
    self._model = world_model.load(vae, mdn_rnn)
    self.observation_space = dream_environment.latent_space(self._model)
    self._state: world_model.State | None = None

  def reset(
    self, *, seed: int | None = None, options: dict[str, Any] | None = None
  ) -> tuple[np.ndarray, dict[str, Any]]:
    """Starts an episode; see `gymnasium.Env.reset`.

    Raises:
      errors.UserError: a window is wanted, and there is no display.
    """
    super().reset(seed=seed)
    shown = self.render_mode == 'human'
    with display.connected() if shown else contextlib.nullcontext():
      frame, info = self._game.reset(seed=seed, options=options)
    assert self._model.m is not None
    carry = self._model.m.initial_carry(1)
    self._state = world_model.State(self._encode(frame), carry)
    return self._observation(), info

  def step(
    self, action: np.ndarray
  ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
    """Drives a step; see `gymnasium.Env.step`.

    Args:
      action: [3]; clipped to the action space.

    Raises:
      error.ResetNeeded: there was no `reset` before.
      error.InvalidAction: the action has another shape, is NaN or infinite.
    """
    if self._state is None:
      raise error.ResetNeeded('call reset before step')
    [action] = dream_environment.checked_actions([action], 1)
    frame, reward, terminated, truncated, info = self._game.step(action)
    carry = _move(self._model, self._state, action[None])
    self._state = world_model.State(self._encode(frame), carry)
    return self._observation(), float(reward), terminated, truncated, info

  def render(self) -> Any:
    """Shows the game; see `gymnasium.Env.render`."""
    return self._game.render()

  def close(self) -> None:
    self._game.close()

  def _encode(self, frame: np.ndarray) -> jax.Array:
    return _look(self._model, environment.resize(frame[None]))

  def _observation(self) -> np.ndarray:
    assert self._state is not None
    return dream_environment.latent_observation(self._state)[0]


@jax.jit
def _look(model: world_model.WorldModel, observation: jax.Array) -> jax.Array:
  return world_model.encode(model, observation).mean


@jax.jit
def _move(
  model: world_model.WorldModel, state: world_model.State, action: jax.Array
) -> Any:
  return world_model.predict(model, state, action)[1]


gymnasium.register(
  ID,
  entry_point=f'{__name__}:CarRacingLatent',
  max_episode_steps=environment.MAX_STEPS,
)
