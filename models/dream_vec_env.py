"""Many dreams as a `VecEnv` of stable-baselines3, stepped in one batch.

from models import dream_vec_env
import stable_baselines3

dreams = dream_vec_env.DreamVecEnv(64, noise=1)
stable_baselines3.PPO('MlpPolicy', dreams).learn(1_000_000)
"""

from collections.abc import Sequence
from typing import Any

from models import dream_environment
import numpy as np
from stable_baselines3.common import vec_env


class DreamVecEnv(vec_env.VecEnv):
  """B dreams; the step that ends an episode returns the start of the next."""

  def __init__(self, num_envs: int, **arguments: Any):
    """Loads a world model; for the arguments see `CarRacingDreams`.

    Raises:
      error.Error, weights.WeightsError: see there.
    """
    self._dreams = dream_environment.CarRacingDreams(num_envs, **arguments)
    self.render_mode = self._dreams.render_mode
    super().__init__(
      num_envs,
      self._dreams.single_observation_space,
      self._dreams.single_action_space,
    )

  def reset(self) -> np.ndarray:
    """Starts all dreams, with the seeds that `seed` has set; see `VecEnv`."""
    observation, _ = self._dreams.reset(seed=self._seeds)
    self._reset_seeds()
    self._reset_options()
    return observation

  def step_async(self, actions: np.ndarray) -> None:
    """Takes the actions, [B, 3], of the next `step_wait`."""
    self._actions = actions

  def step_wait(
    self,
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
    """Imagines a step of all dreams.

    Returns:
      Observations, [B, ...]; rewards, float32 [B]; whether episodes ended, bool
      [B]; and for those `terminal_observation` and `TimeLimit.truncated`.
    """
    reward, terminated, truncated = self._dreams.imagine(self._actions)
    done = terminated | truncated
    observation = self._dreams.observe()
    infos: list[dict[str, Any]] = [{} for _ in done]
    if done.any():
      for i in np.flatnonzero(done):
        infos[i] = {
          'terminal_observation': observation[i],
          'TimeLimit.truncated': bool(truncated[i] and not terminated[i]),
        }
      self._dreams.restart(done)
      observation = self._dreams.observe()
    return observation, reward.copy(), done, infos  # PPO adds to it.

  def close(self) -> None:
    self._dreams.close()

  def get_images(self) -> Sequence[np.ndarray]:
    return self._dreams.render() or ()

  def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
    value = getattr(self._dreams, attr_name)
    return [value for _ in self._get_indices(indices)]

  def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
    raise NotImplementedError('dreams share their attributes')

  def env_method(self, method_name: str, *_: Any, **__: Any) -> list[Any]:
    raise NotImplementedError(
      f'dreams have no method {method_name} of their own'
    )

  def env_is_wrapped(
    self, wrapper_class: Any, indices: Any = None
  ) -> list[bool]:
    return [False for _ in self._get_indices(indices)]
