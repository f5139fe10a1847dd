"""How well a world model predicts: (model, dataset) → errors by driver.

Predictions start from many steps of every episode, after M has watched the
steps before, and are compared with what was recorded.
"""

from collections.abc import Iterable, Sequence
import functools
import itertools
import operator
from typing import Any, NamedTuple

from absl import logging
from carracing_data import errors
from carracing_data import json_documents
from carracing_data import prepared_dataset
from carracing_rollouts import loader
from carracing_rollouts import schema
from carracing_rollouts import who_drove
import jax
import jax.numpy as jnp
from models import mdn_rnn
from models import vae
from models import world_model
import numpy as np

HORIZONS = (1, 5, 15, 50)  # In steps; 50 steps are one second.
SEEN_STEPS = 80  # The camera zooms in during the first 50.
DREAMS = {'dream': 1.0, 'dream, temperature 0.1': 0.1}
STILL = 'nothing changes'
V_ALONE = 'VAE alone'
ALL = 'all of them'  # In place of a driver.
_SPLIT = 'validation'
_STRIDE = 10  # Steps between the starts of segments.
_BATCH = 64  # Segments compared at once.


class Errors(json_documents.Document):
  """Errors of a kind of prediction, at each horizon.

  Attributes:
    latent: root mean squared error of z against the true posterior mean.
    frame: squared error of the decoded frame, for pixels in 0..1, summed over
      the frame.
  """

  latent: list[float]
  frame: list[float]


class Rewards(json_documents.Document):
  """Sums of dreamt rewards against the real ones, over the longest horizon.

  Attributes:
    correlation: None if one of the two is constant.
    error: root mean squared error.
    bias: mean of dreamt minus real.
  """

  correlation: float | None
  error: float
  bias: float


class Accuracy(json_documents.Document):
  """How well a world model predicts some episodes.

  Attributes:
    episodes: number of episodes.
    segments: number of starts of predictions.
    nll: NLL of the next z, nats per latent dimension, over the steps that are
      dreamt, but with true inputs: samples of the posterior, as in training.
    nll_floor: entropy of the posteriors of these z; no M gets below.
    reward_std: standard deviation of the sums of real rewards.
    rewards: sums of dreamt rewards, by kind of dream; empty if M predicts none.
    errors: errors by kind of prediction: each of `DREAMS`; `STILL` repeats the
      last seen z; `V_ALONE` decodes the true posterior mean.
  """

  episodes: int
  segments: int
  nll: float
  nll_floor: float
  reward_std: float
  rewards: dict[str, Rewards]
  errors: dict[str, Errors]


class _Segments(NamedTuple):
  """Cuts out of episodes: S steps to watch, L steps to predict.

  Attributes:
    posterior: posteriors of z, [B, S + 1 + L, Z].
    action: float32 [B, S + L, 3].
    reward: float32 [B, L], of the predicted steps.
    frame: uint8 [B, H, 64, 64, 3], at the horizons.
    is_first: bool [B], whether it is the first segment of its episode.
  """

  posterior: vae.Posterior
  action: Any
  reward: Any
  frame: Any
  is_first: Any


def measure(
  model: world_model.WorldModel,
  dataset: str,
  data_dir: str | None,
  key: jax.Array,
  most: int | None = None,
) -> dict[str, Accuracy]:
  """Measures predictions for each driver of a dataset.

  Args:
    model: the world model.
    dataset: name or folder of the rollouts; see `prepared_dataset.find`.
    data_dir: data directory; see `prepared_dataset.find`.
    key: random key of the dreams.
    most: largest number of episodes of a driver; None: all of them.

  Returns:
    How well the model predicts, by driver, and if there are several, on all
    their episodes, `ALL`. Drivers of short episodes are left out, with a
    warning.

  Raises:
    errors.DatasetError: there is no such dataset, its log is damaged, or all
      episodes are too short.
  """
  prepared = prepared_dataset.find(dataset, data_dir, schema.KIND)
  episodes = loader.episodes(str(prepared.folder), split=_SPLIT)
  drives = {_SPLIT: who_drove.of_split(prepared, _SPLIT)}
  of_driver = who_drove.by_driver(drives)
  compared = {
    title: compare(model, (episodes[i] for _, i in ids[:most]), key)
    for title, ids in of_driver.items()
  }
  for title in [title for title, batches in compared.items() if not batches]:
    logging.warning('All episodes driven by %s are too short.', title)
    del compared[title]
  if len(compared) > 1:
    compared[ALL] = [x for of_one in compared.values() for x in of_one]
  if not compared:
    needed = SEEN_STEPS + max(HORIZONS)
    raise errors.DatasetError(
      f'no validation episode of {prepared.full_name} has'
      f' {needed} transitions or more'
    )
  return {title: summarise(x) for title, x in compared.items()}


def compare(
  model: world_model.WorldModel,
  episodes: Iterable[schema.Episode],
  key: jax.Array,
  *,
  horizons: Sequence[int] = HORIZONS,
  seen_steps: int = SEEN_STEPS,
) -> list[dict[str, Any]]:
  """Compares predictions, dreams and their baselines with recordings.

  Args:
    model: the world model.
    episodes: episodes to predict; short ones are skipped.
    key: random key of dreams and posterior samples.
    horizons: numbers of steps after which a dream is compared.
    seen_steps: number of steps that M watches before it predicts.

  Returns:
    Batches of comparisons, for `summarise`; none if all episodes are too short.
  """
  found = []
  segments = itertools.chain.from_iterable(
    _cut(model, episode, horizons, seen_steps) for episode in episodes
  )
  while batch := list(itertools.islice(segments, _BATCH)):
    # One compiled program compares batches of any size.
    padded = batch + batch[-1:] * (_BATCH - len(batch))
    of_batch = _compare(
      model,
      jax.tree.map(lambda *x: np.stack(x), *padded),
      jax.random.fold_in(key, len(found)),
      horizons=tuple(horizons),
      seen_steps=seen_steps,
    )
    rows = slice(len(batch))
    found.append(
      jax.tree.map(operator.itemgetter(rows), jax.device_get(of_batch))
    )
  return found


def summarise(compared: Sequence[dict[str, Any]]) -> Accuracy:
  """Summarises at least one batch of comparisons."""
  found = jax.tree.map(lambda *x: np.concatenate(x), *compared)
  real = found['reward'].astype(np.float64)
  return Accuracy(
    episodes=int(found['is_first'].sum()),
    segments=len(real),
    nll=float(found['nll'].mean()),
    nll_floor=float(found['nll_floor'].mean()),
    reward_std=float(real.std()),
    rewards={
      name: _rewards(dreamt.astype(np.float64), real)
      for name, dreamt in found['dreamt_reward'].items()
      if dreamt is not None
    },
    errors={
      name: Errors(
        latent=np.sqrt(found['latent'][name].mean(0)).tolist(),
        frame=found['frame'][name].mean(0).tolist(),
      )
      for name in (*DREAMS, STILL, V_ALONE)
    },
  )


def _cut(
  model: world_model.WorldModel,
  episode: schema.Episode,
  horizons: Sequence[int],
  seen_steps: int,
) -> list[_Segments]:
  """Cuts segments, without the axis B, out of an episode."""
  longest = max(horizons)
  starts = range(seen_steps, len(episode) - longest, _STRIDE)
  if not starts:
    return []
  posterior = world_model.encode_episode(model, episode.observation)
  found = []
  for start in starts:
    first, end = start - seen_steps, start + longest
    found.append(
      _Segments(
        jax.tree.map(lambda x, a=first, b=end: x[a : b + 1], posterior),
        episode.action[first:end],
        episode.reward[start:end],
        episode.observation[np.add(start, horizons)],
        start == starts[0],
      )
    )
  return found


@functools.partial(jax.jit, static_argnames=('horizons', 'seen_steps'))
def _compare(
  model: world_model.WorldModel,
  segments: _Segments,
  key: jax.Array,
  *,
  horizons: tuple[int, ...],
  seen_steps: int,
) -> dict[str, Any]:
  """Compares predictions with a batch of segments; arrays [B, ...]."""
  z, logvar = segments.posterior
  dream_key, sample_key = jax.random.split(key)
  ahead = np.subtract(horizons, 1)
  seen, predicted = segments.action[:, :seen_steps], slice(seen_steps, None)
  true_z = z[:, predicted][:, 1:][:, ahead]

  state = world_model.watch(model, z[:, : seen_steps + 1], seen)
  still = jnp.broadcast_to(state.z[:, None], true_z.shape)
  guesses, dreamt_reward = {STILL: still, V_ALONE: true_z}, {}
  for name, temperature in DREAMS.items():
    dreamt = world_model.dream(
      model, state, segments.action[:, predicted], dream_key, temperature
    )
    guesses[name] = dreamt.z[:, ahead]
    dreamt_reward[name] = (
      None if dreamt.reward is None else dreamt.reward.sum(1)
    )

  def frame_error(guess: jax.Array) -> jax.Array:
    error = vae.to_float(segments.frame) - world_model.decode(model, guess)
    return (error**2).sum((2, 3, 4))

  sample = segments.posterior.sample(sample_key)
  prediction = world_model.predict_sequence(
    model, sample[:, :-1], segments.action
  )
  nll = mdn_rnn.nll(prediction.mixture, sample[:, 1:])
  entropy = 0.5 * (jnp.log(2 * jnp.pi * jnp.e) + logvar[:, 1:])
  return {
    'is_first': segments.is_first,
    'nll': nll[:, predicted].mean(1),
    'nll_floor': entropy[:, predicted].mean((1, 2)),
    'reward': segments.reward.sum(1),
    'dreamt_reward': dreamt_reward,
    'latent': {
      name: ((guess - true_z) ** 2).mean(-1) for name, guess in guesses.items()
    },
    'frame': {name: frame_error(guess) for name, guess in guesses.items()},
  }


def _rewards(dreamt: np.ndarray, real: np.ndarray) -> Rewards:
  difference = dreamt - real
  varied = np.ptp(dreamt) > 0 and np.ptp(real) > 0
  return Rewards(
    correlation=float(np.corrcoef(dreamt, real)[0, 1]) if varied else None,
    error=float(np.sqrt((difference**2).mean())),
    bias=float(difference.mean()),
  )
