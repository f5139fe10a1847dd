"""Drives a fleet: observations → features → actions, compiled as one call."""

from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from models import controller
from models import world_model
import numpy as np
from trainers.control import fleet as fleet_lib
from trainers.control import practice

# Before learning starts, noise changes slowly, and is wide before `tanh`.
WARMUP_CORRELATION, WARMUP_SCALE = 0.95, 1.0

# (parameters, features [B, F], noise [B, 3]) → actions [B, 3] in −1..1.
Choose = Callable[[Any, jax.Array, jax.Array], jax.Array]


class Decision(NamedTuple):
  """What B cars do.

  Attributes:
    features: inputs of the controller, float32 [B, F].
    squashed: actions before `controller.to_action`, float32 [B, 3] in −1..1.
    action: float32 [B, 3].
    carry: M's carry after the action.
  """

  features: jax.Array
  squashed: jax.Array
  action: jax.Array
  carry: Any


@functools.partial(jax.jit, static_argnums=(0, 1))
def decide(
  choose: Choose,
  c: controller.Controller,
  model: world_model.WorldModel,
  params: Any,
  observation: jax.Array,
  carry: Any,
  is_first: jax.Array,
  noise: jax.Array,
) -> Decision:
  """Encodes frames, chooses actions and advances M, for training.

  Args:
    choose: function that chooses actions.
    c: controller whose features are used.
    model: V and M.
    params: first argument of `choose`.
    observation: uint8 [B, 64, 64, 3], 0..255.
    carry: M's carry before the observation.
    is_first: whether an episode starts with the observation, bool [B].
    noise: last argument of `choose`, float32 [B, 3].
  """
  carry = jax.tree.map(lambda x: jnp.where(is_first[:, None], 0, x), carry)
  z = world_model.encode(model, observation).mean
  features = c.features(z, carry[1])
  squashed = choose(params, features, noise)
  action = controller.to_action(squashed)
  _, carry = world_model.predict(model, world_model.State(z, carry), action)
  return Decision(features, squashed, action, carry)


class Drivers:
  """The drivers of a fleet: M's carry and the noise of every car.

  Between `decide` and `step` the views of the fleet show the state before the
  action.
  """

  def __init__(
    self,
    fleet: fleet_lib.Fleet,
    c: controller.Controller,
    model: world_model.WorldModel,
  ):
    """Takes the wheel of B cars at the start of an episode."""
    assert model.m is not None
    self._fleet, self._c, self._model = fleet, c, model
    num_cars = len(fleet.views.outcome)
    self._carry = model.m.initial_carry(num_cars)
    self._is_first = np.ones(num_cars, bool)
    self._noise = np.zeros((num_cars, controller.ACTION_SIZE))

  def explore(
    self,
    choose: Choose,
    params: Any,
    correlation: float,
    scale: float | np.ndarray,
    rng: np.random.Generator,
  ) -> Decision:
    """Chooses actions with noise.

    Args:
      choose: function that chooses actions.
      params: first argument of `choose`.
      correlation: that with the noise of the step before; see
        `continue_noise`.
      scale: standard deviation of the noise, of all cars or [B, 1].
      rng: source of the random draws.
    """
    self._noise = continue_noise(self._noise, correlation, rng)
    return self.decide(choose, params, scale * self._noise)

  def decide(
    self, choose: Choose, params: Any, noise: np.ndarray | float = 0.0
  ) -> Decision:
    """Chooses actions; see the function `decide`."""
    views = self._fleet.views
    noise = np.broadcast_to(np.float32(noise), views.action.shape)
    decision = decide(
      choose,
      self._c,
      self._model,
      params,
      views.observation,
      self._carry,
      self._is_first,
      noise,
    )
    self._carry = decision.carry
    views.action[:] = decision.action  # Waits until all has been computed.
    return decision

  def step(self) -> np.ndarray:
    """Drives one step; returns whose episode ended with it, bool [B]."""
    self._fleet.step()
    self._is_first = self._fleet.views.outcome != practice.Outcome.RUNNING
    return self._is_first


def continue_noise(
  noise: np.ndarray, correlation: float, rng: np.random.Generator
) -> np.ndarray:
  """Draws the next noise of an autoregressive process, float64.

  In the long run it is standard normal. The correlation, 0..1, is that of the
  last noise with the next one.
  """
  fresh = rng.standard_normal(noise.shape)
  return correlation * noise + np.sqrt(1 - correlation**2) * fresh


class Scores(NamedTuple):
  """Outcomes of N episodes.

  Attributes:
    returns: sums of the game's rewards, float32 [N].
    steps: numbers of steps, int32 [N].
    outcome: see `practice.Outcome`, int32 [N].
  """

  returns: np.ndarray
  steps: np.ndarray
  outcome: np.ndarray


def score(
  fleet: fleet_lib.Fleet,
  c: controller.Controller,
  model: world_model.WorldModel,
  choose: Choose,
  params: Any,
  tracks: Sequence[int],
  stuck_steps: int = 0,
) -> Scores:
  """Drives every track once, without noise.

  Args:
    fleet: B cars.
    c: controller whose features are used.
    model: V and M.
    choose: function that chooses actions.
    params: first argument of `choose`.
    tracks: seeds of the tracks; B divides their number.
    stuck_steps: steps without a new tile after which an episode fails; 0:
      never.
  """
  views = fleet.views
  num_cars = len(views.outcome)
  parts = []
  for start in range(0, len(tracks), num_cars):
    fleet.drive(tracks[start : start + num_cars], stuck_steps)
    drivers = Drivers(fleet, c, model)
    ended = np.zeros(num_cars, bool)
    while not ended.all():
      drivers.decide(choose, params)
      ended = drivers.step()
    of_episodes = views.episode_return, views.episode_steps, views.outcome
    parts.append([x.copy() for x in of_episodes])
  return Scores(*map(np.concatenate, zip(*parts)))


def linear(params: Any, features: jax.Array, noise: jax.Array) -> jax.Array:
  """Chooses actions as `controller.Controller` with these parameters does."""
  del noise
  of_layer = params['linear']
  products = features @ of_layer['kernel']
  return jnp.tanh(products + jnp.broadcast_to(of_layer['bias'], products.shape))
