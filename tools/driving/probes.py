"""Probes: what a world model is tried with, from doing nothing to the agent.

A probe changes what an agent does, and needs nothing but its action. So it
drives in the game and in dreams, where there are no frames, alike.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from carracing_data import rlds_steps
from models import agent as agent_lib
import numpy as np

TAKES_OVER = 60  # Steps that the agent drives at first; the camera zooms in.
# Of noise with that of the step before: it lasts for some 20 steps, because
# independent noise would average out.
CORRELATION = 0.95
_PERIOD = 150  # Steps from one pause to the next.
_ZERO, _ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


class Probe(NamedTuple):
  """How a probe acts; three numbers are those of steering, gas and brake.

  Or B probes: arrays [B, 3] and [B], see `stacked`.

  Attributes:
    scale: factors of the agent's action.
    constant: what is added to it.
    noise: standard deviation of autoregressive noise that is added.
    uniform: share of an action that is drawn uniformly.
    pause: steps at the end of every 150 in which nothing is done.
  """

  scale: Any = _ZERO
  constant: Any = _ZERO
  noise: Any = 0.0
  uniform: Any = 0.0
  pause: Any = 0


AGENT = Probe(scale=_ONE)
# With these it is chosen what makes dreams better.
DEVELOPMENT = {
  'nothing': Probe(),
  'gas_0.1': Probe(constant=(0, 0.1, 0)),
  'gas_0.3': Probe(constant=(0, 0.3, 0)),
  'full_gas': Probe(constant=(0, 1, 0)),
  'brake_0.5': Probe(constant=(0, 0, 0.5)),
  'gas_and_brake': Probe(constant=(0, 0.5, 0.5)),
  'left_with_gas': Probe(constant=(-0.3, 0.2, 0)),
  'uniform_actions': Probe(uniform=1.0),
  'agent': AGENT,
  'agent_noise_0.3': AGENT._replace(noise=0.3),
  'agent_noise_0.6': AGENT._replace(noise=0.6),
  'agent_half_gas': Probe(scale=(1, 0.5, 1)),
  'agent_half_steering': Probe(scale=(0.5, 1, 1)),
  'agent_pauses': AGENT._replace(pause=50),
}
# Nothing is chosen with these: they are for results alone.
HELD_OUT = {
  'gas_bursts': Probe(constant=(0.05, 0.5, 0), pause=120),
  'agent_reversed_steering': Probe(scale=(-1, 1, 1)),
  'circling_right': Probe(constant=(0.15, 0.1, 0)),
  'agent_uniform_0.5': Probe(scale=(0.5, 0.5, 0.5), uniform=0.5),
  'agent_long_pauses': AGENT._replace(pause=100),
  'agent_coasting': Probe(scale=(1, 0, 0)),
  'agent_plus_brake_0.15': AGENT._replace(constant=(0, 0, 0.15)),
  'agent_bias_right_0.25': AGENT._replace(constant=(0.25, 0, 0)),
  'agent_uniform_0.15': Probe(scale=(0.85, 0.85, 0.85), uniform=0.15),
  'agent_double_gas': Probe(scale=(1, 2, 1)),
  'agent_steering_1.8': Probe(scale=(1.8, 1, 1)),
  'agent_plus_gas_0.08': AGENT._replace(constant=(0, 0.08, 0)),
  'agent_short_pauses': AGENT._replace(pause=15),
  'agent_quarter_brake': Probe(scale=(1, 1, 0.25)),
  'agent_bias_left_0.1': AGENT._replace(constant=(-0.1, 0, 0)),
  'agent': AGENT,
}
SETS = {'development': DEVELOPMENT, 'held_out': HELD_OUT}
_ALL = {**DEVELOPMENT, **HELD_OUT}  # The agent is in both.
assert len(_ALL) == len(DEVELOPMENT) + len(HELD_OUT) - 1


class Draws(NamedTuple):
  """Random draws of a step.

  Attributes:
    normal: autoregressive noise of unit variance, [B, 3].
    uniform: actions from the whole range, [B, 3].
  """

  normal: Any
  uniform: Any


def initial_draws(normal: Any) -> Draws:
  """Returns the draws before the first step.

  Args:
    normal: independent draws of a standard normal distribution, [B, 3].
  """
  return Draws(normal, 0 * normal)


def next_draws(draws: Draws, normal: Any, uniform: Any) -> Draws:
  """Returns the draws of the next step.

  Args:
    draws: draws of the last step.
    normal: independent draws of a standard normal distribution, [B, 3].
    uniform: independent draws from 0..1, [B, 3].
  """
  low, high = rlds_steps.ACTION_LOW[None], rlds_steps.ACTION_HIGH[None]
  fresh = (1 - CORRELATION**2) ** 0.5 * normal
  return Draws(CORRELATION * draws.normal + fresh, low + uniform * (high - low))


def act(probe: Probe, action: Any, step: Any, draws: Draws) -> Any:
  """Returns what probes do instead of the agent; for NumPy and JAX.

  Args:
    probe: B probes, whose fields are arrays [B, ...], see `stacked`.
    action: the agent's actions, float32 [B, 3].
    step: number of steps since the probes took over.
    draws: random draws, [B, 3] each.
  """
  changed = (
    probe.scale * action
    + probe.constant
    + probe.noise[:, None] * draws.normal
    + probe.uniform[:, None] * draws.uniform
  )
  drives = step % _PERIOD < _PERIOD - probe.pause
  low, high = rlds_steps.ACTION_LOW[None], rlds_steps.ACTION_HIGH[None]
  return (changed * drives[:, None]).clip(low, high)


def stacked(probes: Sequence[Probe]) -> Probe:
  """Returns B probes as one, whose fields are arrays [B, ...]."""
  return Probe(*(np.array(x, np.float32) for x in zip(*probes)))


class _Carry(NamedTuple):
  """The state of B episodes.

  Attributes:
    generators: sources of the random draws, object [B].
    draws: draws of the last step.
    step: number of steps so far, int64 [B].
    probe: the probes.
    inner: carry of the agent.
  """

  generators: np.ndarray
  draws: Draws
  step: np.ndarray
  probe: Probe
  inner: Any


class ProbedAgent:
  """A policy: the agent drives 60 steps, and then probes take over."""

  def __init__(self, agent: agent_lib.Agent, names: Sequence[str]):
    """Takes the agent, and the names of B probes."""
    self._agent, self._names = agent, names

  def initial_carry(self, seeds: Sequence[np.random.SeedSequence]) -> _Carry:
    generators = [np.random.default_rng(seed) for seed in seeds]
    size = rlds_steps.ACTION_SIZE
    return _Carry(
      np.array(generators, object),
      initial_draws(np.stack([g.standard_normal(size) for g in generators])),
      np.zeros(len(seeds), int),
      stacked([_ALL[name] for name in self._names]),
      self._agent.initial_carry(seeds),
    )

  def __call__(
    self,
    observation: np.ndarray,
    carry: _Carry,
    imposed: np.ndarray | None = None,
  ) -> tuple[np.ndarray, _Carry]:
    generators, draws, step, probe, inner = carry
    size = rlds_steps.ACTION_SIZE
    draws = next_draws(
      draws,
      np.stack([g.standard_normal(size) for g in generators]),
      np.stack([g.random(size) for g in generators]),
    )

    def change(action: np.ndarray) -> np.ndarray:
      probed = act(probe, action, step - TAKES_OVER, draws)
      return np.where((step < TAKES_OVER)[:, None], action, probed)

    action, inner = self._agent(observation, inner, imposed, change)
    return action, _Carry(generators, draws, step + 1, probe, inner)
