"""How drivers fare in the game and in dreams → how well dreams rank them.

The same drivers, a set of `probes`, take over from an agent at the same steps
of the same tracks in both. A dream that is worth training in ranks them as the
game does.
"""

from collections.abc import Mapping, Sequence
import functools
import os
from pathlib import Path
from typing import Any, NamedTuple

from carracing_data import errors
from carracing_data import rlds_steps
from carracing_rollouts import environment
from carracing_rollouts import policies
from carracing_rollouts import rollout
import jax
import jax.numpy as jnp
from models import agent as agent_lib
from models import world_model
import numpy as np
from tools.dream_fidelity import documents
from tools.driving import drivers
from tools.driving import jobs
from tools.driving import probes

_SIMULATOR = 'gymnasium'
_RESAMPLES = 2000


class Rewards(NamedTuple):
  """What a driver got after it took over, on K tracks.

  Attributes:
    total: sum of the rewards, float64 [K].
    steps: number of steps, float64 [K].
  """

  total: np.ndarray
  steps: np.ndarray


def drive(
  compared: Mapping[str, probes.Probe],
  agent_folder: str | os.PathLike[str],
  tracks: Sequence[int],
  folder: Path,
  execute: jobs.Execute,
  max_steps: int,
) -> tuple[dict[str, Rewards], list[np.ndarray]]:
  """Drives all tracks with every driver, as far as it is not done yet.

  Args:
    compared: the drivers, by name.
    agent_folder: folder of the agent from which they take over.
    tracks: seeds of K tracks.
    folder: existing folder of the results.
    execute: runs jobs, in any order and in any processes.
    max_steps: steps of an episode, more than `probes.TAKES_OVER`.

  Returns:
    What each driver got, by name; and the actions on each track before that,
    float32 [`probes.TAKES_OVER`, 3].

  Raises:
    errors.UserError: see `jobs.run`; or the agent does not drive far enough.
  """
  agent = drivers.of_agent(agent_folder)
  groups = [
    [
      jobs.Drive(
        agent.model_copy(update={'name': name}),
        track,
        jobs.policy_seed(track),
        _SIMULATOR,
        max_steps,
      )
      for track in tracks
    ]
    for name in compared
  ]
  driven = jobs.run(
    groups,
    agent_folder,
    folder,
    execute,
    'driving',
    len(groups) * len(tracks),
  )
  first = probes.TAKES_OVER
  for track, x in zip(tracks, driven):
    if len(x.action) <= first:
      raise errors.UserError(
        f'on track {track} the agent in {agent_folder} ends after'
        f' {len(x.action)} steps, before others can take over at step {first}'
      )
  found = {}
  for i, name in enumerate(compared):
    rewards = [
      x.reward[first:].astype(np.float64)
      for x in driven[i * len(tracks) : (i + 1) * len(tracks)]
    ]
    found[name] = Rewards(
      np.array([x.sum() for x in rewards]),
      np.array([len(x) for x in rewards], np.float64),
    )
  return found, [x.action[:first] for x in driven[: len(tracks)]]


def watched(
  model: world_model.WorldModel, tracks: Sequence[int], actions: Any
) -> Any:
  """Replays the first actions on K tracks.

  Args:
    model: V encodes what is seen.
    tracks: seeds of K tracks.
    actions: actions on each of them, float32 [T, 3].

  Returns:
    Latent vectors, float32 [K, T + 1, Z].
  """
  played = rollout.episodes(
    environment.SIMULATORS[_SIMULATOR](tracks, len(actions[0])),
    policies.RecordedPolicy(actions),
    [np.random.SeedSequence(0)] * len(tracks),  # Not used.
  )
  return np.stack(
    [world_model.encode_episode(model, x.observation).mean for x in played]
  )


def dream(
  compared: Mapping[str, probes.Probe],
  agent: agent_lib.Agent,
  model: world_model.WorldModel,
  z: Any,
  actions: Any,
  key: jax.Array,
  *,
  dreams_per_track: int,
  num_steps: int,
  temperature: float,
  noise: float,
) -> dict[str, Rewards]:
  """Dreams on from K tracks with every driver.

  Args:
    compared: the drivers, by name.
    agent: the agent.
    model: the world model that dreams, with the same V.
    z: latent vectors of the steps before, float32 [K, T + 1, Z].
    actions: actions between them, float32 [K, T, 3].
    key: random key.
    dreams_per_track: number of dreams of a driver on a track.
    num_steps: steps after which a dream ends.
    temperature: of what is imagined, see `mdn_rnn.Mixture.sample`.
    noise: see there.

  Returns:
    What each driver gets, the means over the dreams of a track, by name.
  """
  count, tracks = len(compared), len(z)
  shape = count, dreams_per_track, tracks

  def repeated(x):
    tiled = jnp.broadcast_to(x, (*shape[:2], *x.shape))
    return tiled.reshape(-1, *x.shape[1:])

  z, actions = jnp.asarray(z), jnp.asarray(actions)
  state, seen = (
    jax.tree.map(repeated, world_model.watch(x, z, actions))
    for x in (model, agent.model)
  )
  probe = jax.tree.map(
    lambda x: np.repeat(x, dreams_per_track * tracks, axis=0),
    probes.stacked([*compared.values()]),
  )
  total, steps = jax.device_get(
    _dream(
      agent,
      model,
      state,
      seen.carry,
      probe,
      key,
      temperature,
      noise,
      num_steps,
    )
  )
  total, steps = (
    x.astype(np.float64).reshape(shape).mean(1) for x in (total, steps)
  )
  return dict(zip(compared, map(Rewards, total, steps)))


@functools.partial(jax.jit, static_argnames='num_steps')
def _dream(
  agent: agent_lib.Agent,
  model: world_model.WorldModel,
  state: world_model.State,
  carry: Any,
  probe: probes.Probe,
  key: jax.Array,
  temperature: float,
  noise: float,
  num_steps: int,
) -> tuple[jax.Array, jax.Array]:
  """Returns the sum of the rewards and the number of steps of dreams, [B].

  `model` dreams, from `state`, [B, ...]; the agent's own M, with `carry`,
  [B, ...], may be another one. `probe` holds the drivers, see `probes.stacked`.
  """
  size = len(state.z)

  def step(x, i):
    state, carry, draws, alive, total, steps = x
    *keys, imagine_key = jax.random.split(jax.random.fold_in(key, i), 3)
    draws = probes.next_draws(
      draws,
      jax.random.normal(keys[0], draws.normal.shape),
      jax.random.uniform(keys[1], draws.uniform.shape),
    )
    seen = world_model.State(state.z, carry)
    action = probes.act(probe, agent_lib.act(agent, seen), i, draws)
    _, carry = world_model.predict(agent.model, seen, action)
    state, reward, termination = world_model.imagine(
      model, state, action, imagine_key, temperature, noise
    )
    assert reward is not None and termination is not None
    total += jnp.where(alive, reward, 0)
    steps += alive
    alive &= termination <= world_model.LIKELY_TERMINATION
    return (state, carry, draws, alive, total, steps), None

  normal = jax.random.normal(
    jax.random.fold_in(key, num_steps), (size, rlds_steps.ACTION_SIZE)
  )
  draws, zeros = probes.initial_draws(normal), jnp.zeros(size)
  first = state, carry, draws, jnp.ones(size, bool), zeros, zeros
  (*_, total, steps), _ = jax.lax.scan(step, first, jnp.arange(num_steps))
  return total, steps


def compare(
  subject: documents.Subject,
  game: Mapping[str, Rewards],
  dreamt: Mapping[str, Rewards],
) -> documents.Fidelity:
  """Compares what drivers got in the game and in dreams, on the same tracks."""
  names = list(game)
  tracks = len(game[names[0]].total)
  rng = np.random.default_rng(0)
  picks = rng.integers(tracks, size=(_RESAMPLES, tracks))
  rate = {}
  resampled = {}
  for world, found in ('game', game), ('dream', dreamt):
    total, steps = (
      np.stack([getattr(found[name], field) for name in names])
      for field in ('total', 'steps')
    )
    rate[world] = total.sum(1) / steps.sum(1)
    resampled[world] = (
      total[:, picks].sum(-1) / steps[:, picks].sum(-1)
    ).T  # [resamples, drivers]

  def estimate(name, least, most):
    measure = documents.MEASURES[name]
    value = float(measure(rate['game'], rate['dream']))
    half = 1.96 * measure(resampled['game'], resampled['dream']).std(ddof=1)
    return documents.Estimate(
      value=value, low=max(value - half, least), high=min(value + half, most)
    )

  def ceiling(name):
    measure = documents.MEASURES[name]
    return float(measure(rate['game'], resampled['game']).mean())

  rows = {
    world: {
      name: documents.DriverRow(
        reward_per_step=float(rate[world][i]),
        standard_error=float(resampled[world][:, i].std(ddof=1)),
        total=float(found[name].total.mean()),
      )
      for i, name in enumerate(names)
    }
    for world, found in (('game', game), ('dream', dreamt))
  }
  return documents.Fidelity(
    subject=subject,
    tracks=tracks,
    **rows,
    spearman=estimate('spearman', -1, 1),
    pearson=estimate('pearson', -1, 1),
    ceiling_spearman=ceiling('spearman'),
    ceiling_pearson=ceiling('pearson'),
    error=estimate('error', 0, np.inf),
  )
