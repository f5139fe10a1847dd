"""Soft actor-critic at work: cars practise while the networks learn."""

from collections.abc import Mapping
import time
from typing import Any

import jax
import ml_collections
from models import controller
from models import world_model
import numpy as np
from trainers.control import actor_critic
from trainers.control import driving
from trainers.control import exploration
from trainers.control import fleet as fleet_lib
from trainers.control import practice
from trainers.control import privileged
from trainers.control import replay

# Purposes of random draws; each has a stream of its own.
_TRACKS, _NOISE, _REPLAY = range(3)


class ActorCriticLearner:
  """Finds a controller by soft actor-critic; see `session.Learner`."""

  examples_per_step: int  # Steps of cars.

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    model: world_model.WorldModel,
    c: controller.Controller,
  ):
    """Starts the simulators."""
    self._config = ml_collections.FrozenConfigDict(config)
    self._model, self._c = model, c
    self.examples_per_step = config.num_cars * config.drive_steps
    num_features = c.latent_size + c.hidden_size
    self.fleet = fleet_lib.Fleet(
      config.num_cars, practice.Settings(**_practice_settings(config))
    )
    self._state = _to_learning_device(
      actor_critic.create(config, num_features, privileged.SIZE)
    )
    self._buffer = replay.empty(
      config.replay_steps // config.num_cars,
      config.num_cars,
      num_features,
      privileged.SIZE,
    )
    self._collected = _to_learning_device(actor_critic.Metrics.empty())
    self._step = 0
    self._begin_interval()

  def close(self) -> None:
    self.fleet.close()

  @property
  def saved(self) -> Mapping[str, Any]:
    return {
      'state': self._state,
      'collected': self._collected,
      'buffer': jax.tree.map(np.copy, self._buffer),
    }

  def restore(self, saved: Mapping[str, Any], step: int) -> None:
    self._step = step
    self._state, self._collected = saved['state'], saved['collected']
    self._buffer = jax.tree.map(np.array, saved['buffer'])

  @property
  def environment_steps(self) -> int:
    return self._step * self.examples_per_step

  @property
  def params(self) -> Mapping[str, Any]:
    state = jax.device_get(self._state)
    mean = state.average['mean']
    return driving.folded(
      mean['kernel'], mean['bias'], state.feature_mean, state.feature_std
    )

  def begin(self, step: int) -> None:
    config = self._config
    self.fleet.practise([config.seed, _TRACKS, step])
    self._carry = driving.initial_carry(self._model, config.num_cars)
    self._is_first = np.ones(config.num_cars, bool)
    self._noise = np.zeros((config.num_cars, controller.ACTION_SIZE))
    if rows := step * config.drive_steps:
      # The episodes under way are not continued.
      last = self._buffer.outcome[(rows - 1) % len(self._buffer.outcome)]
      last[last == practice.Outcome.RUNNING] = practice.Outcome.TRUNCATED

  def take_step(self, step: int) -> bool:
    config = self._config
    rows = (step - 1) * config.drive_steps
    learns = step > config.warmup_steps
    policy = jax.device_put(actor_critic.policy(self._state), jax.devices()[0])
    if learns:
      # The networks learn from what happened up to the last step while the
      # cars drive this one.
      started = time.perf_counter()
      batches = replay.sample(
        self._buffer,
        rows,
        (config.updates_per_step, config.batch_size),
        np.random.default_rng([config.seed, _REPLAY, step]),
        config.return_steps,
        config.discount,
        # The costs of time for ever: what standing still would return.
        -0.1 / (1 - config.discount),
      )
      self._seconds['sampling'] += time.perf_counter() - started
      self._state, collected = actor_critic.update(config, self._state, batches)
      self._collected = self._collected.merge(collected)
    self._drive(step, rows, policy)
    started = time.perf_counter()
    jax.block_until_ready(self._state)
    self._seconds['waiting_for_updates'] += time.perf_counter() - started
    self._step = step
    if step == config.warmup_steps:
      features = self._buffer.features[: rows + config.drive_steps]
      self._state = actor_critic.whiten(self._state, features)
    return bool(np.isfinite(self._collected.loss.total))

  def _drive(self, step: int, rows: int, policy: actor_critic.Policy) -> None:
    """Drives `drive_steps` steps and writes them to the buffer."""
    config, views = self._config, self.fleet.views
    rng = np.random.default_rng([config.seed, _NOISE, step])
    memory, scale = config.noise_memory, 1.0
    if step <= config.warmup_steps:
      memory = exploration.WARMUP_MEMORY
      scale = exploration.WARMUP_SCALE
    for row in range(rows, rows + config.drive_steps):
      self._noise = exploration.continue_noise(self._noise, memory, rng)
      started = time.perf_counter()
      decision = driving.decide(
        actor_critic.act,
        self._c,
        self._model,
        policy,
        views.observation,
        self._carry,
        self._is_first,
        (scale * self._noise).astype(np.float32),
      )
      self._carry = decision.carry
      row %= len(self._buffer.outcome)
      self._buffer.privileged[row] = views.privileged
      views.action[:] = decision.action
      decided = time.perf_counter()
      self.fleet.step()
      self._seconds['deciding'] += decided - started
      self._seconds['simulating'] += time.perf_counter() - decided
      self._buffer.features[row] = decision.features
      self._buffer.action[row] = decision.squashed
      self._buffer.reward[row] = views.reward
      self._buffer.outcome[row] = views.outcome
      self._is_first = views.outcome != practice.Outcome.RUNNING
      self._returns += views.episode_return[self._is_first].tolist()
      self._lengths += views.episode_steps[self._is_first].tolist()

  def collect(self) -> tuple[Any, Mapping[str, float]]:
    collected = self._collected
    self._collected = _to_learning_device(actor_critic.Metrics.empty())
    total = max(sum(self._seconds.values()), 1e-9)
    others = {f'share_{k}': x / total for k, x in self._seconds.items()}
    others['environment_steps'] = self.environment_steps
    if self._returns:
      others['return'] = float(np.mean(self._returns))
      others['episode_steps'] = float(np.mean(self._lengths))
    self._begin_interval()
    return collected, others

  def _begin_interval(self) -> None:
    self._returns: list[float] = []
    self._lengths: list[int] = []
    self._seconds = dict.fromkeys(
      ('sampling', 'waiting_for_updates', 'deciding', 'simulating'), 0.0
    )


def _practice_settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
  return {name: config[name] for name in practice.Settings._fields}


def _to_learning_device(tree: Any) -> Any:
  """Puts arrays on the device that learns: not the first, if there are two."""
  return jax.device_put(tree, jax.devices()[-1])
