"""The learner of actor-critic in the dream, where nothing is simulated."""

from collections.abc import Mapping
import functools
from typing import Any, ClassVar

import jax
import ml_collections
from models import controller
from models import start_states
from models import world_model
import numpy as np
from trainers.control import dream_actor_critic
from trainers.control import fleet as fleet_lib
from trainers.control import grass_probe
from trainers.control import practice
from trainers.control import settings
from trainers.control import standardisation

# Of the dreams whose return is compared with the score.
_NUM_DREAMS, _DREAM_STEPS = 64, 400
_EPISODE_STEPS = 1000


class DreamLearner:
  """Finds a controller in dreams; see `session.Learner`."""

  SETTINGS: ClassVar[type[settings.ControllerSettings]]
  SETTINGS = settings.DreamSettings
  SHOWN_METRIC: ClassVar[str] = 'dreamt_return'
  SCALARS: ClassVar[tuple[str, ...]] = ('dreamt_return',)

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    model: world_model.WorldModel,
    c: controller.Controller,
    starts: start_states.StartStates,
    initial: Mapping[str, Any] | None = None,
  ):
    """Measures the inputs of the networks and creates them.

    Args:
      config: see `trainers/configs/controller_dream.py`.
      model: V and M.
      c: the controller to find.
      starts: states from which dreams start.
      initial: parameters of `c` from which to train on; None: untrained.
    """
    self._config = ml_collections.FrozenConfigDict(config)
    self._c = c
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

  @functools.cached_property
  def fleet(self) -> fleet_lib.Fleet:
    """The cars of evaluations; they start when they are needed."""
    rules = practice.Rules(simulator=self._config.simulator)
    return fleet_lib.Fleet(self._config.num_cars, rules)

  def close(self) -> None:
    if 'fleet' in vars(self):
      self.fleet.close()

  @property
  def saved(self) -> Mapping[str, Any]:
    # The grass network too: fitted again elsewhere, it would differ a little.
    return {
      'state': self._state,
      'collected': self._collected,
      'grass_params': self._world.grass_params,
    }

  def restore(self, saved: Mapping[str, Any], step: int) -> None:
    del step
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

  def take_step(self, step: int) -> bool:
    del step
    self._state, collected = dream_actor_critic.update(
      self._config, self._c, self._state, self._world, self._starts
    )
    self._collected = self._collected.merge(collected)
    return bool(np.isfinite(self._collected.loss.total))

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
