"""The learner of evolution: candidates drive the same tracks.

CMA-ES with a diagonal covariance: Ros & Hansen, "A Simple Modification in
CMA-ES Achieving Linear Time and Space Complexity" (2008).
"""

from collections.abc import Mapping
from typing import Any

from carracing_rollouts import environment
from carracing_rollouts import tracks
from clu import metrics
import cma
import jax
import jax.numpy as jnp
from models import controller
from models import world_model
import numpy as np
from trainers import training_log
from trainers.configs import controller_evolution
from trainers.control import controller_learner
from trainers.control import driving
from trainers.control import networks
from trainers.control import practice
from trainers.control import standardisation

_WARMUP_STEPS = 160  # Of every car, to standardise the features.
# Streams of random draws: [seed, stream, step], and the index of a car.
_WARMUP_TRACKS, _WARMUP_NOISE, _TRACKS, _CANDIDATES = 1, 2, 3, 4

_of_candidates = jax.vmap(driving.linear)  # Each has its own layer.

# Means over generations.
_Metrics = metrics.Collection.create(
  **training_log.averages(
    'fitness',  # Mean fitness of the candidates.
    'best_fitness',  # Fitness of the best candidate.
    'deviation',  # Step size of the search.
  )
)


class EvolutionLearner(controller_learner.ControllerLearner):
  """Finds a controller by evolution.

  Whatever a generation draws follows from the seed and the fitness of earlier
  ones, so the history of the fitness is all that a checkpoint needs.
  """

  shown_metric: str = 'fitness'

  def __init__(
    self,
    config: controller_evolution.Config,
    model: world_model.WorldModel,
    c: controller.Controller,
  ):
    super().__init__(config, model, c)
    self._config = config
    self.examples_per_step: int = config.num_cars * config.tracks_per_step
    self._num_features = c.latent_size + c.hidden_size
    self._moments = standardisation.Moments(
      np.zeros(self._num_features, np.float32),
      np.ones(self._num_features, np.float32),
    )
    # As large as for the longest run, so that any run can be extended.
    self._fitness = np.zeros(
      (controller_evolution.MAX_GENERATIONS, config.num_cars)
    )
    self._environment_steps = np.zeros((), np.int64)
    self._search = self._new_search()
    self._collected = _Metrics.empty()

  @property
  def saved(self) -> Mapping[str, Any]:
    return {
      'learner': {
        'fitness': self._fitness,
        'mean': self._moments.mean,
        'std': self._moments.std,
        'environment_steps': self._environment_steps,
        'collected': self._collected,
      }
    }

  def restore(self, saved: Mapping[str, Any], step: int) -> None:
    saved = saved['learner']
    self._fitness, mean, std, self._environment_steps = (
      np.array(saved[name])
      for name in ('fitness', 'mean', 'std', 'environment_steps')
    )
    self._moments = standardisation.Moments(mean, std)
    self._collected = saved['collected']
    self._search = self._new_search()
    for fitness in self._fitness[1:step]:
      self._search.tell(self._search.ask(), (-fitness).tolist())

  @property
  def params(self) -> Mapping[str, Any]:
    """Parameters of the search's mean, never of the luckiest candidate."""
    return self._params_of(self._search.mean)

  def take_step(self, step: int) -> float:
    """Drives a generation; the first step only measures the features."""
    if step == 1:
      self._standardise()
      return 0.0
    candidates = self._search.ask()
    fitness = self._drive(step, candidates)
    self._fitness[step - 1] = fitness
    self._search.tell(candidates, (-fitness).tolist())
    self._collected = self._collected.merge(
      _Metrics.single_from_model_output(
        fitness=jnp.asarray(fitness.mean()),
        best_fitness=jnp.asarray(fitness.max()),
        deviation=jnp.asarray(self._search.sigma),
      )
    )
    controller_learner.check_finite(fitness, step)
    return 0.0

  def collect(self) -> tuple[Any, Mapping[str, float]]:
    collected = None
    if self._collected.fitness.count:
      collected, self._collected = self._collected, _Metrics.empty()
    return collected, self.scalars()

  def scalars(self) -> Mapping[str, float]:
    return {'environment_steps': float(self._environment_steps)}

  def _drive(self, step: int, candidates: list[np.ndarray]) -> np.ndarray:
    """Returns the fitness of each candidate: its mean return, float64 [B]."""
    config = self._config
    rng = np.random.default_rng([config.seed, _TRACKS, step])
    params = jax.tree.map(
      lambda *x: np.stack(x), *map(self._params_of, candidates)
    )
    fitness = np.zeros(config.num_cars)
    for _ in range(config.tracks_per_step):
      scores = driving.score(
        self.fleet,
        self._c,
        self._model,
        _of_candidates,
        params,
        [tracks.training(rng)] * config.num_cars,
        config.stuck_steps,
      )
      self._environment_steps += scores.steps.sum()
      failed = scores.outcome == practice.Outcome.FAILED
      # The −0.1 per step that would have followed; a car that left the field
      # pays it, too, although its game ended there.
      rest = 0.1 * (environment.MAX_STEPS - scores.steps)
      fitness += np.where(failed, scores.returns - rest, scores.returns)
    return fitness / config.tracks_per_step

  def _params_of(self, candidate: np.ndarray) -> Mapping[str, Any]:
    layer = np.reshape(candidate, (-1, controller.ACTION_SIZE))
    return standardisation.folded(
      {'kernel': layer[:-1], 'bias': layer[-1]}, self._moments
    )

  def _new_search(self) -> cma.CMAEvolutionStrategy:
    config = self._config
    start = np.zeros((self._num_features + 1, controller.ACTION_SIZE))
    start[-1] = networks.INITIAL_BIAS
    rng = np.random.default_rng([config.seed, _CANDIDATES])
    return cma.CMAEvolutionStrategy(
      start.ravel(),
      config.initial_deviation,
      {
        'popsize': config.num_cars,
        'CMA_diagonal': True,
        'randn': lambda *shape: rng.standard_normal(shape),
        'seed': np.nan,  # Leaves NumPy's global generator alone.
        'verbose': -9,
      },
    )

  def _standardise(self) -> None:
    """Measures the features while the cars drive at random."""
    seed = self._config.seed
    rng = np.random.default_rng([seed, _WARMUP_NOISE, 0])
    self.fleet.practise([seed, _WARMUP_TRACKS, 0])
    drivers = driving.Drivers(self.fleet, self._c, self._model)
    bias = np.array(networks.INITIAL_BIAS, np.float32)
    features = []
    for _ in range(_WARMUP_STEPS):
      decision = drivers.explore(
        _explore, bias, driving.WARMUP_CORRELATION, driving.WARMUP_SCALE, rng
      )
      features.append(np.asarray(decision.features))
      drivers.step()
    self._environment_steps += _WARMUP_STEPS * self._config.num_cars
    self._moments = standardisation.measured(np.stack(features))


def _explore(
  bias: jax.Array, features: jax.Array, noise: jax.Array
) -> jax.Array:
  """Chooses actions at random."""
  del features
  return jnp.tanh(bias[None] + noise)
