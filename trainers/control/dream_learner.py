"""The learner of actor-critic in the dream, where nothing is simulated."""

from collections.abc import Mapping
from typing import Any

from carracing_data import runtime
import jax
from models import controller
from models import start_states
from models import world_model
from trainers.configs import controller_dream
from trainers.control import controller_learner
from trainers.control import dream_actor_critic
from trainers.control import grass_probe
from trainers.control import standardisation

# Of the dreams whose return is compared with the score.
_NUM_DREAMS, _DREAM_STEPS = 64, 400
_EPISODE_STEPS = 1000
_SAMPLE_BYTES = 40_000  # Of a dreamt step, until its gradient is known.


class DreamLearner(controller_learner.ControllerLearner):
  """Finds a controller in dreams."""

  shown_metric: str = 'dreamt_return'
  exports_last: bool = True  # The learning rate has fallen.

  def __init__(
    self,
    config: controller_dream.Config,
    model: world_model.WorldModel,
    c: controller.Controller,
    starts: start_states.StartStates,
    initial: Mapping[str, Any] | None = None,
  ):
    """Measures the inputs of the networks and creates them.

    Dreams start from `starts`, and training from `initial`, if there are such
    parameters of `c`.
    """
    num_samples = config.num_dreams * config.dream_steps
    if jax.default_backend() == 'cpu':
      runtime.check_memory(
        num_samples * _SAMPLE_BYTES,
        f'{num_samples:,} dreamt steps of an update',
      )
    super().__init__(config, model, c)
    self._config = config
    self._starts = jax.device_put(starts)
    moments = dream_actor_critic.measured(starts)
    self._world = dream_actor_critic.DreamWorld(
      model, moments, grass_probe.create(c.latent_size, config.seed)
    )
    self._state = dream_actor_critic.create(
      config,
      c.latent_size + c.hidden_size,
      len(moments.mean),
      initial and standardisation.unfolded(initial, moments),
    )
    self._collected = dream_actor_critic.Metrics.empty()
    self.examples_per_step: int = (
      config.updates_per_step * config.num_dreams * config.dream_steps
    )

  @property
  def saved(self) -> Mapping[str, Any]:
    # The grass network too: fitted again elsewhere, it would differ a little.
    return {
      'learner': {
        'state': self._state,
        'collected': self._collected,
        'grass_params': self._world.grass_params,
      }
    }

  def restore(self, saved: Mapping[str, Any], step: int) -> None:
    del step
    saved = saved['learner']
    self._state, self._collected = saved['state'], saved['collected']
    self._world = self._world._replace(grass_params=saved['grass_params'])

  @property
  def params(self) -> Mapping[str, Any]:
    return standardisation.folded(
      self._state.average['mean'], self._world.moments
    )

  def begin(self, step: int) -> None:
    """Fits the grass network once; every update begins with new dreams."""
    if self._config.grass_penalty and step == 0:
      fitted = grass_probe.fit(
        self._world.model, self._starts, self._config.seed
      )
      self._world = self._world._replace(grass_params=fitted)

  def take_step(self, step: int) -> float:
    self._state, collected = dream_actor_critic.update(
      self._config, self._c, self._state, self._world, self._starts
    )
    self._collected = self._collected.merge(collected)
    controller_learner.check_finite(self._collected.loss.total, step)
    return 0.0

  def collect(self) -> tuple[Any, Mapping[str, float]]:
    collected = self._collected
    self._collected = dream_actor_critic.Metrics.empty()
    return collected, self.scalars()

  def scalars(self) -> Mapping[str, float]:
    """Returns 1,000 times the reward of a step that the controller dreams.

    The mean over 400 steps of 64 dreams at temperature 1, which do not
    terminate: what an episode would give if all of it were like that.
    """
    start_key, dream_key = jax.random.split(jax.random.key(0))
    reward = dream_actor_critic.dreamt_reward(
      self._c,
      _DREAM_STEPS,
      self._world.model,
      self.params,
      start_states.draw(self._starts, _NUM_DREAMS, start_key),
      dream_key,
    )
    return {'dreamt_return': _EPISODE_STEPS * float(reward)}
