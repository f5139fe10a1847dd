"""Evolution at work: candidates drive the same tracks, the best survive.

CMA-ES with a diagonal covariance: Ros & Hansen, "A Simple Modification in
CMA-ES Achieving Linear Time and Space Complexity" (2008).
"""

from collections.abc import Mapping
from typing import Any

from carracing_rollouts import environment
from carracing_rollouts import tracks
from clu import metrics
import cma
import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from models import controller
from models import world_model
import numpy as np
from trainers.control import driving
from trainers.control import exploration
from trainers.control import fleet as fleet_lib
from trainers.control import practice

# The history of a run grows in blocks of so many generations.
_BLOCK = 1000
_WARMUP_STEPS = 160  # Of every car, to whiten the features.
# Purposes of random draws; each has a stream of its own.
_WARMUP, _TRACKS, _CANDIDATES = range(3)


@flax.struct.dataclass
class Metrics(metrics.Collection):
  """Means over generations."""

  fitness: metrics.Average.from_output('fitness')  # pyright: ignore
  best_fitness: metrics.Average.from_output('best_fitness')  # pyright: ignore
  deviation: metrics.Average.from_output('deviation')  # pyright: ignore


class EvolutionLearner:
  """Finds a controller by evolution; see `session.Learner`.

  Whatever a generation draws follows from the seed and the fitness of earlier
  ones, so the history of the fitness is all that a checkpoint needs.
  """

  examples_per_step: int  # Episodes.

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    model: world_model.WorldModel,
    c: controller.Controller,
  ):
    """Starts the simulators."""
    self._config, self._model, self._c = config, model, c
    self.examples_per_step = config.num_cars * config.tracks_per_step
    self.fleet = fleet_lib.Fleet(
      config.num_cars, practice.Settings(simulator=config.simulator)
    )
    self._num_features = c.latent_size + c.hidden_size
    self._mean = np.zeros(self._num_features, np.float32)
    self._std = np.ones(self._num_features, np.float32)
    num_generations = -(-config.num_steps // _BLOCK) * _BLOCK
    self._fitness = np.zeros((num_generations, config.num_cars))
    self._environment_steps = np.array(0)
    self._search = self._new_search()
    self._collected = Metrics.empty()
    self._returns: list[float] = []

  def close(self) -> None:
    self.fleet.close()

  @property
  def environment_steps(self) -> int:
    return int(self._environment_steps)

  @property
  def saved(self) -> Mapping[str, Any]:
    return {
      'fitness': self._fitness.copy(),
      'mean': self._mean,
      'std': self._std,
      'environment_steps': self._environment_steps,
      'collected': self._collected,
    }

  def restore(self, saved: Mapping[str, Any], step: int) -> None:
    self._fitness, self._mean, self._std, self._environment_steps = (
      np.array(saved[name])
      for name in ('fitness', 'mean', 'std', 'environment_steps')
    )
    self._collected = saved['collected']
    self._search = self._new_search()
    for fitness in self._fitness[1:step]:
      self._search.tell(self._search.ask(), (-fitness).tolist())

  @property
  def params(self) -> Mapping[str, Any]:
    """Parameters of the search's mean, never of the luckiest candidate."""
    layer = np.reshape(self._search.mean, (-1, controller.ACTION_SIZE))
    return driving.folded(layer[:-1], layer[-1], self._mean, self._std)

  def begin(self, step: int) -> None:
    """Does nothing: every generation begins with new episodes."""

  def take_step(self, step: int) -> bool:
    """Drives a generation; the first step only measures the features."""
    if step == 1:
      self._whiten()
      return True
    config = self._config
    rng = np.random.default_rng([config.seed, _TRACKS, step])
    candidates = self._search.ask()
    layers = np.reshape(candidates, (config.num_cars, -1, 3))
    folded = [
      driving.folded(x[:-1], x[-1], self._mean, self._std)['linear']
      for x in layers
    ]
    params = jax.tree.map(lambda *x: np.stack(x), *folded)
    fitness = np.zeros(config.num_cars)
    for _ in range(config.tracks_per_step):
      scores = driving.score(
        self.fleet,
        self._c,
        self._model,
        _choose,
        params,
        [tracks.training(rng)] * config.num_cars,
        config.stuck_steps,
      )
      self._returns += scores.returns.tolist()
      self._environment_steps += scores.steps.sum()
      failed = scores.outcome == practice.Outcome.FAILED
      # The costs of time that would have followed.
      rest = 0.1 * (environment.MAX_STEPS - scores.steps)
      fitness += np.where(failed, scores.returns - rest, scores.returns)
    fitness /= config.tracks_per_step
    self._fitness[step - 1] = fitness
    self._search.tell(candidates, (-fitness).tolist())
    self._collected = self._collected.merge(
      Metrics.single_from_model_output(
        fitness=jnp.asarray(fitness.mean()),
        best_fitness=jnp.asarray(fitness.max()),
        deviation=jnp.asarray(self._search.sigma),
      )
    )
    return bool(np.isfinite(fitness).all())

  def collect(self) -> tuple[Any, Mapping[str, float]]:
    others = {'environment_steps': float(self.environment_steps)}
    if self._returns:
      others['return'] = float(np.mean(self._returns))
    collected, self._collected = self._collected, Metrics.empty()
    self._returns = []
    return collected, others

  def _new_search(self) -> cma.CMAEvolutionStrategy:
    config = self._config
    start = np.zeros((self._num_features + 1, controller.ACTION_SIZE))
    start[-1] = exploration.INITIAL_BIAS
    rng = np.random.default_rng([config.seed, _CANDIDATES])
    return cma.CMAEvolutionStrategy(
      start.ravel(),
      config.initial_deviation,
      {
        'popsize': config.num_cars,
        'CMA_diagonal': True,
        'randn': lambda *shape: rng.standard_normal(shape),
        'seed': config.seed + 1,  # 0 means the time of day.
        'verbose': -9,
      },
    )

  def _whiten(self) -> None:
    """Measures the features while the cars drive at random."""
    config = self._config
    rng = np.random.default_rng([config.seed, _WARMUP])
    self.fleet.practise([config.seed, _WARMUP])
    bias = np.array(exploration.INITIAL_BIAS)
    noise = np.zeros((config.num_cars, controller.ACTION_SIZE))
    carry = driving.initial_carry(self._model, config.num_cars)
    is_first = np.ones(config.num_cars, bool)
    features, views = [], self.fleet.views
    for _ in range(_WARMUP_STEPS):
      noise = exploration.continue_noise(noise, exploration.WARMUP_MEMORY, rng)
      decision = driving.decide(
        _explore,
        self._c,
        self._model,
        None,
        views.observation,
        carry,
        is_first,
        (bias + exploration.WARMUP_SCALE * noise).astype(np.float32),
      )
      features.append(np.asarray(decision.features))
      carry = decision.carry
      views.action[:] = decision.action
      self.fleet.step()
      is_first = views.outcome != practice.Outcome.RUNNING
    self._environment_steps += _WARMUP_STEPS * config.num_cars
    self._mean, self._std = exploration.moments(np.stack(features))


def _explore(params: None, features: jax.Array, noise: jax.Array) -> jax.Array:
  """Chooses actions at random."""
  del params, features
  return jnp.tanh(noise)


def _choose(params: Any, features: jax.Array, noise: jax.Array) -> jax.Array:
  """Chooses the action of each candidate, [B, 3], with its own layer."""
  del noise
  products = jnp.einsum('bf,bfa->ba', features, params['kernel'])
  return jnp.tanh(products + params['bias'])
