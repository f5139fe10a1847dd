"""Who drives: an agent, with noise or without, a policy, or a person.

A driver is a document, `action_log.Driver`, which identifies an agent by its
digests; `policy` makes the policy of a driver.
"""

from collections.abc import Sequence
import functools
import os
from typing import Any, NamedTuple

from carracing_data import errors
from carracing_data import json_documents
from carracing_data import rlds_steps
from carracing_data import runtime
from carracing_rollouts import action_log
from carracing_rollouts import policies
from models import agent
import numpy as np
import pydantic
from tools.driving import keyboard
from tools.driving import probes

AGENT = 'agent'
_SPELL = 20  # Steps with noise, or without, where it comes and goes.


class Disturbances(NamedTuple):
  """What disturbs a driver, as flags give it; all combinations take turns.

  Attributes:
    noise: comma-separated standard deviations of the noise on an agent's
      actions.
    noise_share: share of the steps with noise, if there is any.
    interventions: comma-separated probabilities that an intervention begins at
      a step that has none.
  """

  noise: str = '0'
  noise_share: float = 1.0
  interventions: str = '0'

  def of(self, driver: action_log.Driver) -> list[action_log.Driver]:
    """Returns the driver with each of the disturbances.

    Raises:
      errors.UserError: a number is none or out of range, or there is a share of
        noise without noise.
    """
    levels, probabilities = (
      _numbers(name, getattr(self, name)) for name in ('noise', 'interventions')
    )
    try:
      return [
        action_log.Driver.model_validate(
          {
            **driver.model_dump(),
            'noise': level,
            'noise_share': self.noise_share
            if level or not any(levels)
            else 1.0,
            'interventions': probability,
          }
        )
        for probability in probabilities
        for level in levels
      ]
    except pydantic.ValidationError as error:
      given = [f'--noise={self.noise[:80]}']
      if self.noise_share != 1:
        given.append(f'--noise_share={self.noise_share}')
      if self.interventions != '0':
        given.append(f'--interventions={self.interventions[:80]}')
      given = ' '.join(given[self.noise == '0' and len(given) > 1 :])
      raise errors.UserError(
        f'{given}: {json_documents.explain(error)}'
      ) from None


def _numbers(name: str, given: str) -> list[float]:
  try:
    if '_' in given or not given.isascii():  # Python would take 0_1 for 1.
      raise ValueError(f'{given[:80]!r} is no number')
    return [float(x) for x in given.split(',')]
  except ValueError as error:
    raise errors.UserError(f'--{name}={given[:80]}: {error}') from None


def of_agent(folder: str | os.PathLike[str]) -> action_log.Driver:
  """Describes an agent.

  Raises:
    weights.WeightsError: the agent is missing or damaged.
  """
  digests = agent.digests(folder)
  return action_log.Driver(
    name=AGENT, weights_sha256=action_log.AgentWeights(**digests)
  )


def of_policy(spec: str) -> action_log.Driver:
  """Describes a built-in policy.

  Raises:
    errors.DatasetError: see `policies.make`.
  """
  policies.make(spec)
  return action_log.Driver(name=spec)


def by_hand(driver: action_log.Driver) -> bool:
  """Returns whether a person drives."""
  return driver.name == keyboard.NAME


def policy(
  drivers: Sequence[action_log.Driver], agent_folder: str | None
) -> policies.Policy:
  """Returns what chooses the actions of B episodes.

  Args:
    drivers: their B drivers: the same agent, policy or person, but for noise.
    agent_folder: folder of the agent; None if no agent drives.

  Raises:
    errors.UserError: the folder holds another agent, or none.
  """
  first = drivers[0]
  if by_hand(first):
    return keyboard.Person()
  if first.weights_sha256 is None:
    return policies.make(first.name)
  assert agent_folder is not None
  loaded = _load(agent_folder, *first.weights_sha256.model_dump().items())
  if first.name != AGENT:
    return probes.ProbedAgent(loaded, [driver.name for driver in drivers])
  if not any(driver.noise for driver in drivers):
    return loaded
  return NoisyAgent(loaded, drivers)


@functools.lru_cache(maxsize=1)  # Loaded once for all jobs of a process.
def _load(folder: str, *digests: tuple[str, str]) -> agent.Agent:
  runtime.use_cpu()
  if agent.digests(folder) != dict(digests):
    raise errors.UserError(f'the agent in {folder} changed during its drives')
  return agent.load(folder)


class _NoisyCarry(NamedTuple):
  """The state of B episodes.

  Attributes:
    generators: sources of the random draws, [B].
    noise: last noise, standard normal, float64 [B, 3].
    levels: standard deviations of the noise of actions, float64 [B].
    shares: shares of the spells with noise, float64 [B].
    step: number of steps so far, int64 [B].
    noisy: whether this spell has noise, bool [B].
    inner: carry of the agent.
  """

  generators: np.ndarray
  noise: np.ndarray
  levels: np.ndarray
  shares: np.ndarray
  step: np.ndarray
  noisy: np.ndarray
  inner: Any


class NoisyAgent:
  """An agent whose actions get autoregressive noise, all the time or in spells.

  Spells bring the car into states that the agent alone would not reach, and
  between them the agent recovers.
  """

  def __init__(self, driver: agent.Agent, drivers: Sequence[action_log.Driver]):
    """Takes the agent, and the B drivers whose noise it gets."""
    self._agent, self._drivers = driver, drivers

  def initial_carry(
    self, seeds: Sequence[np.random.SeedSequence]
  ) -> _NoisyCarry:
    size = len(seeds)
    return _NoisyCarry(
      np.array([np.random.default_rng(s) for s in seeds], object),
      np.zeros((size, rlds_steps.ACTION_SIZE)),
      np.array([driver.noise for driver in self._drivers]),
      np.array([driver.noise_share for driver in self._drivers]),
      np.zeros(size, int),
      np.ones(size, bool),
      self._agent.initial_carry(seeds),
    )

  def __call__(
    self,
    observation: np.ndarray,
    carry: _NoisyCarry,
    imposed: np.ndarray | None = None,
  ) -> tuple[np.ndarray, _NoisyCarry]:
    generators, noise, levels, shares, step, noisy, inner = carry
    fresh = np.stack(
      [g.standard_normal(rlds_steps.ACTION_SIZE) for g in generators]
    )
    noise = (
      probes.CORRELATION * noise + np.sqrt(1 - probes.CORRELATION**2) * fresh
    )
    noisy = noisy.copy()
    for i in np.flatnonzero((shares < 1) & (step % _SPELL == 0)):
      noisy[i] = generators[i].random() < shares[i]
    added = (levels * noisy)[:, None] * noise
    action, inner = self._agent(
      observation, inner, imposed, lambda action: action + added
    )
    return action, _NoisyCarry(
      generators, noise, levels, shares, step + 1, noisy, inner
    )
