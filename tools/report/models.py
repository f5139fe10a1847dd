"""What V, M and C see and dream, as parts of a report."""

from collections.abc import Iterator
from typing import NamedTuple

from carracing_data import errors
from carracing_data import prepared_dataset
from carracing_rollouts import loader
import jax
import jax.numpy as jnp
from models import agent
from models import start_states
from models import vae
from models import weights
from models import world_model
import numpy as np
from tools.dream_errors import accuracy
from tools.dream_errors import tables
from tools.dream_fidelity import tables as fidelity_tables
from tools.lineage import find
from tools.report import blocks
from tools.report import data
from tools.showing import watched_dreams
from tools.showing import webpages

_FRAMES = 200  # From which the KL of each latent dimension is computed.
_COLUMNS = 8  # Frames of a strip.
_TRAVERSAL = np.linspace(-3, 3, 7, dtype=np.float32)
_DREAM_STEPS = 70
_DREAMS = 4
_COLD = 0.1
_KEY = 0


class _Base(NamedTuple):
  """The point around which z is changed.

  Attributes:
    z: float32 [Z].
    kl: mean KL of each dimension, nats, [Z]; None: unknown.
    origin: what it is, for people.
  """

  z: np.ndarray
  kl: np.ndarray | None
  origin: str


def of_v(lineage: find.Lineage) -> Iterator[blocks.Block]:
  """Yields reconstructions, and what each latent number does."""
  path = lineage.parts['vae'].path
  if path is None:
    return
  v = weights.load(path, 'vae')
  model = world_model.WorldModel(v.model, jax.device_put(v.variables))
  yield blocks.Heading('Reconstructions')
  if not data.shown(lineage):
    yield blocks.Text('There are no frames here to reconstruct.')
  strips = []
  for dataset in data.shown(lineage):
    frames = loader.spread_frames(dataset, count=_COLUMNS)
    z = world_model.encode_episode(model, frames).mean
    name = prepared_dataset.find(dataset).full_name
    shown = np.stack([frames, np.asarray(_decode(model, z))])
    title = f'Validation frames of {name} above their reconstructions'
    strips.append(blocks.strip(shown, title, title))
  yield blocks.Pictures(strips, width=450)
  yield blocks.Heading('Traversals')
  base = _base(lineage, model)
  order = np.arange(len(base.z))
  if base.kl is not None:
    order = np.argsort(-base.kl, kind='stable')
  how = 'in their order' if base.kl is None else 'sorted by KL'
  yield blocks.Text(
    f'Each of the {len(base.z)} latent numbers from −3 to 3, {how}; the others'
    f' stay as they are {base.origin}. V leaves those of nearly 0 nats unused:'
    ' they change nothing.'
  )
  yield blocks.Pictures([_traversal(model, base, int(i)) for i in order])


def _base(lineage: find.Lineage, model: world_model.WorldModel) -> _Base:
  if data.shown(lineage):
    frames = loader.spread_frames(data.newest(lineage), count=_FRAMES)
    posterior = world_model.encode_episode(model, frames)
    return _usual(posterior, 'frame of the newest data')
  m = lineage.parts.get('mdn_rnn')
  if m is not None and m.path is not None:
    try:
      starts = start_states.load(m.path)
      posterior = vae.Posterior(starts.mean, starts.logvar)
      return _usual(posterior, 'start state of dreams')
    except errors.UserError:
      pass  # Earlier versions exported none.
  return _Base(np.zeros(model.v.latent_size), None, 'at the origin')


def _usual(posterior: vae.Posterior, of: str) -> _Base:
  """Returns the one that is nearest to the mean, of posteriors [N, Z]."""
  mean = np.asarray(posterior.mean)
  nearest = ((mean - mean.mean(0)) ** 2).sum(1).argmin()
  kl = np.asarray(posterior.kl().mean(0))
  return _Base(mean[nearest], kl, f'in the most usual {of}')


def _traversal(
  model: world_model.WorldModel, base: _Base, index: int
) -> blocks.Picture:
  z = np.tile(base.z.astype(np.float32), (len(_TRAVERSAL), 1))
  z[:, index] = _TRAVERSAL
  frames = np.asarray(_decode(model, z))
  caption = f'z[{index}]'
  if base.kl is not None:
    caption += f' · {base.kl[index]:.2f} nats'
  return blocks.strip(
    frames, f'frames decoded with z[{index}] from −3 to 3', caption
  )


_decode = jax.jit(world_model.decode_uint8)


def of_m(lineage: find.Lineage) -> Iterator[blocks.Block]:
  """Yields a dream beside what was recorded, and errors by horizon."""
  v, m = lineage.parts['vae'].path, lineage.parts['mdn_rnn'].path
  if v is None or m is None:
    return
  model = world_model.load(v, m)
  yield blocks.Heading('Dreams')
  dataset = data.newest(lineage)
  yield from _dream(model, dataset)
  yield blocks.Heading('Errors by horizon')
  measured = accuracy.measure(
    model, dataset, None, jax.random.key(_KEY), data.MAX_EPISODES
  )
  yield blocks.Table(*tables.by_driver(measured))
  title, found = list(measured.items())[-1]
  drivers = '' if title == accuracy.ALL else f' driven by {title}'
  yield blocks.Text(
    f'M watches {accuracy.SEEN_STEPS} steps of episodes{drivers} and then'
    ' dreams, given the recorded actions. z: root mean squared error of the'
    ' latent vector; frame: squared error of the decoded frame. V alone decodes'
    ' what it sees, without M.'
  )
  yield blocks.Pictures([_error_plot('z', found), _error_plot('frame', found)])
  yield blocks.Table(*tables.by_horizon(found))


def of_fidelity(lineage: find.Lineage) -> Iterator[blocks.Block]:
  """Yields whether dreams rank drivers as the game does."""
  yield blocks.Heading('Drivers in dreams and in the game')
  if not lineage.fidelities:
    yield blocks.Text(
      'No comparison is found here; python -m tools.dream_fidelity --agent=DIR'
      ' makes one.'
    )
  for found in lineage.fidelities:
    subject = found.subject
    yield blocks.Text(
      f'Drivers of the set {subject.drivers.replace("_", " ")}, temperature'
      f' {subject.temperature:g}, noise {subject.noise:g}.'
      f' {fidelity_tables.summary(found)}.'
    )
    drawing = webpages.drawing(fidelity_tables.plot(found))
    yield blocks.Pictures(
      [blocks.Picture(drawing, 'rewards of drivers in the game and in dreams')],
      width=450,
    )
    yield blocks.Table(*fidelity_tables.of_drivers(found))


def _dream(
  model: world_model.WorldModel, dataset: str
) -> Iterator[blocks.Block]:
  episode = loader.episodes(dataset, split='validation')[0]
  if len(episode) < 4:
    raise errors.DatasetError('the first validation episode is too short')
  seen_steps = min(accuracy.SEEN_STEPS, len(episode) // 2)
  observation = episode.observation[: seen_steps + _DREAM_STEPS + 1]
  action = episode.action[: len(observation) - 1]
  warm, cold = (
    watched_dreams.dream(
      model, observation, action, seen_steps, jax.random.key(_KEY), temperature
    )
    for temperature in (1.0, _COLD)
  )
  steps = np.linspace(seen_steps, len(observation) - 1, _COLUMNS)
  steps = steps.round().astype(int)
  since = ', '.join(f'+{step - seen_steps}' for step in steps)
  yield blocks.Text(
    'M watches the beginning of the first validation episode of the newest data'
    f' and dreams on, given the recorded actions. Steps since then: {since}.'
  )
  rows = {
    'recorded': warm['frame'],
    'as V reconstructs it': warm['VAE'],
    'dream': warm['dream'],
    f'dream at temperature {_COLD}': cold['dream'],
  }
  yield blocks.Pictures(
    [
      blocks.strip(frames[steps], f'strip of frames: {title}', title)
      for title, frames in rows.items()
    ],
    width=600,
  )


def _error_plot(kind: str, found: accuracy.Accuracy) -> blocks.Picture:
  drawing, axes = blocks.plot(f'error of {kind}')
  for name, of_kind in found.errors.items():
    values = of_kind.latent if kind == 'z' else of_kind.frame
    if kind == 'z' and name == accuracy.V_ALONE:
      continue  # Zero by definition.
    axes.plot(accuracy.HORIZONS, values, 'o-', label=name, markersize=3)
  axes.set_ylim(bottom=0)
  axes.set_xlabel('steps ahead', fontsize=8)
  axes.legend(frameon=False, fontsize=7)
  return blocks.Picture(
    webpages.drawing(drawing), f'error of {kind} by horizon'
  )


def of_c(lineage: find.Lineage) -> Iterator[blocks.Block]:
  """Yields dreams in which C drives."""
  v, m, c = (lineage.parts[name].path for name in agent.PARTS)
  if v is None or m is None or c is None:
    return
  loaded = weights.load(c, 'controller')
  driver = agent.Agent(
    world_model.load(v, m), loaded.model, jax.device_put(loaded.variables)
  )
  starts = start_states.load(m)
  key, noise = jax.random.key(_KEY), world_model.FAITHFUL_NOISE
  state = start_states.draw(starts, _DREAMS, key, noise)
  frames = np.asarray(_drive(driver, state, jax.random.key(_KEY + 1)))
  yield blocks.Heading('C drives in dreams')
  yield blocks.Text(
    f'M dreams {_DREAM_STEPS} steps from real start states, and C drives; every'
    f' {_DREAM_STEPS // (_COLUMNS - 1)}th frame.'
  )
  yield blocks.Pictures(
    [
      blocks.strip(x, f'frames of dream {i}', '')
      for i, x in enumerate(frames, 1)
    ],
    width=450,
  )


@jax.jit
def _drive(
  driver: agent.Agent, state: world_model.State, key: jax.Array
) -> jax.Array:
  """Returns frames of dreams, uint8 [B, N, 64, 64, 3]."""

  def step(state, key):
    action = agent.act(driver, state)
    following, *_ = world_model.imagine(
      driver.model, state, action, key, noise=world_model.FAITHFUL_NOISE
    )
    return following, following.z

  _, z = jax.lax.scan(step, state, jax.random.split(key, _DREAM_STEPS))
  z = jnp.concatenate([state.z[None], z])[:: _DREAM_STEPS // (_COLUMNS - 1)]
  return world_model.decode_uint8(driver.model, jnp.swapaxes(z, 0, 1))
