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
  """Chooses actions as an agent does, in training.

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


class Scores(NamedTuple):
  """Outcomes of N episodes.

  Attributes:
    returns: sums of the game's rewards, float32 [N].
    steps: numbers of steps, int32 [N].
    completed: whether the lap was completed, bool [N].
  """

  returns: np.ndarray
  steps: np.ndarray
  completed: np.ndarray


def score(
  fleet: fleet_lib.Fleet,
  decide_for_all: Callable[[np.ndarray, Any, np.ndarray], Decision],
  carry: Any,
  tracks: Sequence[int],
) -> Scores:
  """Drives every track once.

  Args:
    fleet: B cars, where B divides the number of tracks.
    decide_for_all: function (observation, carry, is_first) → decision.
    carry: M's initial carry for B cars.
    tracks: seeds of the tracks.
  """
  views = fleet.views
  num_cars = len(views.outcome)
  parts = []
  for start in range(0, len(tracks), num_cars):
    fleet.drive(tracks[start : start + num_cars])
    is_first = np.ones(num_cars, bool)
    while (views.outcome == practice.Outcome.RUNNING).any():
      decision = decide_for_all(views.observation, carry, is_first)
      carry = decision.carry
      views.action[:] = decision.action
      fleet.step()
      is_first = np.zeros(num_cars, bool)
    parts.append(
      Scores(
        views.episode_return.copy(),
        views.episode_steps.copy(),
        (views.outcome == practice.Outcome.TRUNCATED)
        & (views.episode_steps < practice.MAX_STEPS),
      )
    )
  return Scores(*map(np.concatenate, zip(*parts)))
