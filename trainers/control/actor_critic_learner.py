"""The learner of soft actor-critic: cars practise while the networks learn."""

from collections.abc import Iterator, Mapping
import contextlib
import time
from typing import Any

from carracing_data import runtime
import jax
from models import controller
from models import world_model
import numpy as np
from trainers.configs import controller as controller_config
from trainers.control import actor_critic
from trainers.control import controller_learner
from trainers.control import driving
from trainers.control import networks
from trainers.control import practice
from trainers.control import privileged_observations
from trainers.control import replay_buffer
from trainers.control import standardisation

# Streams of random draws: [seed, stream, step], and the index of a car.
_TRACKS, _NOISE, _REPLAY = 1, 2, 3
_PARTS = ('sampling', 'waiting_for_updates', 'deciding', 'simulating')


class ActorCriticLearner(controller_learner.ControllerLearner):
  """Finds a controller by soft actor-critic.

  If there is a second device, the networks learn on it what happened up to the
  last step, while the cars drive this one.
  """

  shown_metric: str = 'return'

  def __init__(
    self,
    config: controller_config.Config,
    model: world_model.WorldModel,
    c: controller.Controller,
  ):
    num_features = c.latent_size + c.hidden_size
    self._buffer = replay_buffer.empty(
      config.replay_steps // config.num_cars,
      config.num_cars,
      num_features,
      privileged_observations.SIZE,
    )
    runtime.check_memory(  # Zeros take none until they are overwritten.
      sum(x.nbytes for x in self._buffer),
      f'replay_steps={config.replay_steps:,}',
    )
    rules = {name: getattr(config, name) for name in practice.Rules._fields}
    super().__init__(config, model, c, practice.Rules(**rules))
    self._config = config
    # A few tracks say less than a learning rate that has fallen to 0.
    self.exports_last: bool = config.cosine_decay
    self.examples_per_step: int = config.num_cars * config.drive_steps  # Steps.
    num_deterministic = round(config.deterministic_share * config.num_cars)
    self._noise_scale = np.ones((config.num_cars, 1))
    self._noise_scale[:num_deterministic] = 0
    self._environment_steps = 0
    self._state = _to_learning_device(
      actor_critic.create(config, num_features, privileged_observations.SIZE)
    )
    self._collected = _to_learning_device(actor_critic.Metrics.empty())
    self._begin_interval()

  @property
  def saved(self) -> Mapping[str, Any]:
    return {
      'learner': {
        'state': self._state,
        'collected': self._collected,
        'episodes': self._episodes,
        'buffer': self._buffer,
      }
    }

  def restore(self, saved: Mapping[str, Any], step: int) -> None:
    saved = saved['learner']
    self._environment_steps = step * self.examples_per_step
    self._state, self._collected = saved['state'], saved['collected']
    self._episodes = np.array(saved['episodes'])
    self._buffer = jax.tree.map(np.array, saved['buffer'])

  @property
  def params(self) -> Mapping[str, Any]:
    state = self._state
    return standardisation.folded(state.average['mean'], state.moments)

  def begin(self, step: int) -> None:
    config = self._config
    self.fleet.practise([config.seed, _TRACKS, step])
    self._drivers = driving.Drivers(self.fleet, self._c, self._model)
    if rows := step * config.drive_steps:
      # The episodes under way are not continued.
      last = self._buffer.outcome[(rows - 1) % len(self._buffer.outcome)]
      last[last == practice.Outcome.RUNNING] = practice.Outcome.TRUNCATED

  def take_step(self, step: int) -> float:
    config = self._config
    rows = (step - 1) * config.drive_steps
    acting = jax.device_put(actor_critic.acting(self._state), jax.devices()[0])
    if step > config.warmup_steps:
      with self._timed('sampling'):
        batches = replay_buffer.sample(
          self._buffer,
          rows,
          (config.updates_per_step, config.batch_size),
          np.random.default_rng([config.seed, _REPLAY, step]),
          config.return_steps,
          config.discount,
          # The return of standing still for ever.
          -0.1 / (1 - config.discount),
        )
      self._state, collected = actor_critic.update(config, self._state, batches)
      self._collected = self._collected.merge(collected)
    self._drive(step, rows, acting)
    self._environment_steps += self.examples_per_step
    with self._timed('waiting_for_updates'):
      jax.block_until_ready(self._state)
    if step == config.warmup_steps:
      features = self._buffer.features[: rows + config.drive_steps]
      self._state = actor_critic.standardise(self._state, features)
    controller_learner.check_finite(self._collected.loss.total, step)
    return 0.0

  def _drive(self, step: int, rows: int, acting: Any) -> None:
    """Drives `drive_steps` steps and writes them to the buffer."""
    config, views, buffer = self._config, self.fleet.views, self._buffer
    rng = np.random.default_rng([config.seed, _NOISE, step])
    correlation, scale = config.noise_correlation, self._noise_scale
    if step <= config.warmup_steps:
      correlation = driving.WARMUP_CORRELATION
      # The standard deviation is multiplied by that of the initial actor.
      scale = driving.WARMUP_SCALE / np.exp(networks.INITIAL_LOG_STD)
    for row in range(rows, rows + config.drive_steps):
      row %= len(buffer.outcome)
      with self._timed('deciding'):
        decision = self._drivers.explore(
          actor_critic.act, acting, correlation, scale, rng
        )
        buffer.privileged[row] = views.privileged
      with self._timed('simulating'):
        ended = self._drivers.step()
      buffer.features[row] = decision.features
      buffer.action[row] = decision.squashed
      buffer.reward[row] = views.reward
      buffer.outcome[row] = views.outcome
      self._episodes += (
        ended.sum(),
        views.episode_return[ended].sum(),
        views.episode_steps[ended].sum(),
      )

  def collect(self) -> tuple[Any, Mapping[str, float]]:
    collected = None
    if self._collected.loss.count:
      collected = self._collected
      self._collected = _to_learning_device(actor_critic.Metrics.empty())
    total = max(sum(self._seconds.values()), 1e-9)
    others = {f'share_{name}': x / total for name, x in self._seconds.items()}
    others |= self.scalars()
    count, returns, steps = self._episodes
    if count:
      others |= {'return': returns / count, 'episode_steps': steps / count}
    self._begin_interval()
    return collected, others

  def scalars(self) -> Mapping[str, float]:
    return {'environment_steps': float(self._environment_steps)}

  def _begin_interval(self) -> None:
    # Episodes that ended: their number, sum of returns, and sum of steps.
    self._episodes = np.zeros(3)
    self._seconds = dict.fromkeys(_PARTS, 0.0)

  @contextlib.contextmanager
  def _timed(self, part: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    self._seconds[part] += time.perf_counter() - started


def _to_learning_device(tree: Any) -> Any:
  """Puts arrays on the device that learns: not the first, if there are two."""
  return jax.device_put(tree, jax.devices()[-1])
