"""Predictions of a world model, compared with recordings."""

import dataclasses
import json

from carracing_rollouts import (
  carracing_rollouts_dataset_builder as rollouts_builder,
)
from carracing_rollouts import loader
from carracing_rollouts import schema
import jax
from models import mdn_rnn
from models import world_model
import numpy as np
import pytest
from tools.dream_errors import accuracy
from tools.dream_errors import tables

SEEN, HORIZONS = 20, (1, 5)


@pytest.fixture(scope='module')
def episode(world):
  """The only validation episode: 70 transitions."""
  [found] = loader.episodes(
    'carracing_rollouts/tiny', split='validation', data_dir=world.data_dir
  )
  return found


def measure(model, episodes):
  return accuracy.summarise(
    accuracy.compare(
      model,
      episodes,
      jax.random.key(0),
      horizons=HORIZONS,
      seen_steps=SEEN,
    )
  )


def without_chance(world):
  """Returns a world model whose samples are means: it is sure of them."""
  model = world_model.load(world.vae, world.mdn_rnn)
  v, m = jax.tree.map(np.array, (model.v_variables, model.m_variables))
  logvar = v['params']['encoder']['logvar']
  logvar['kernel'][:], logvar['bias'][:] = 0, -30
  mixture = m['params']['mixture']
  num, size = model.m.num_mixtures, model.m.latent_size
  mixture['bias'][0] += 100  # The first component is always drawn.
  mixture['kernel'][:, -num * size :] = 0
  mixture['bias'][-num * size :] = -20
  return model.replace(v_variables=v, m_variables=m)


def test_numbers_are_those_of_a_loop_over_steps(world, episode):
  model = without_chance(world)
  found = measure(model, [episode])

  starts = [20, 30, 40, 50, 60]
  z = world_model.encode_episode(model, episode.observation).mean
  decode = jax.jit(lambda z: world_model.decode(model, z))
  predict = jax.jit(lambda *x: world_model.predict(model, *x))
  latent, frame, nlls, rewards, real = [], [], [], [], []
  for start in starts:
    state = world_model.initial_state(model, z[None, start - SEEN])
    for t in range(start - SEEN, start):
      _, carry = predict(state, episode.action[None, t])
      state = world_model.State(z[None, t + 1], carry)
    dreamt = observed = state
    reward = 0
    for step in range(1, max(HORIZONS) + 1):
      t = start + step - 1
      prediction, carry = predict(dreamt, episode.action[None, t])
      dreamt = world_model.State(prediction.mixture.expectation(), carry)
      reward += float(prediction.reward.mean()[0])
      if step in HORIZONS:
        latent.append(((dreamt.z - z[None, t + 1]) ** 2).mean())
        truth = episode.observation[t + 1] / 255
        frame.append(((decode(dreamt.z)[0] - truth) ** 2).sum())
      prediction, carry = predict(observed, episode.action[None, t])
      observed = world_model.State(z[None, t + 1], carry)
      nlls.append(float(mdn_rnn.nll(prediction.mixture, observed.z)[0]))
    rewards.append(reward)
    real.append(episode.reward[start : start + max(HORIZONS)].sum())

  assert (found.episodes, found.segments) == (1, 5)
  np.testing.assert_allclose(found.nll, np.mean(nlls), rtol=1e-2)
  floor = 0.5 * (np.log(2 * np.pi * np.e) - 30)
  np.testing.assert_allclose(found.nll_floor, floor, rtol=1e-4)
  latent, frame = (np.reshape(x, (5, 2)).mean(0) for x in (latent, frame))
  difference = np.subtract(rewards, real)
  for name in accuracy.DREAMS:
    errors, of_rewards = found.errors[name], found.rewards[name]
    np.testing.assert_allclose(errors.latent, np.sqrt(latent), rtol=0.05)
    np.testing.assert_allclose(errors.frame, frame, rtol=0.05)
    np.testing.assert_allclose(of_rewards.bias, difference.mean(), rtol=0.02)
    rms = np.sqrt((difference**2).mean())
    np.testing.assert_allclose(of_rewards.error, rms, rtol=0.02)
  still = [
    np.sqrt(np.mean([(z[s + n] - z[s]) ** 2 for s in starts])) for n in HORIZONS
  ]
  np.testing.assert_allclose(
    found.errors[accuracy.STILL].latent, still, rtol=1e-4
  )
  alone = found.errors[accuracy.V_ALONE]
  assert alone.latent == [0, 0]
  decoded = [decode(z[None, s + 5])[0] for s in starts]
  truth = [episode.observation[s + 5] / 255 for s in starts]
  error = ((np.array(decoded) - truth) ** 2).sum((1, 2, 3)).mean()
  np.testing.assert_allclose(alone.frame[1], error, rtol=1e-4)


def test_more_than_a_batch_of_segments(world, episode):
  model = without_chance(world)
  longer = schema.Episode(
    **{k: np.concatenate([v] * 12) for k, v in vars(episode).items()}
  )
  starts = range(SEEN, len(longer) - max(HORIZONS), 10)
  assert len(starts) > 64
  found = measure(model, [longer])
  assert found.segments == len(starts)
  z = world_model.encode_episode(model, longer.observation).mean
  still = [
    np.sqrt(np.mean([(z[s + n] - z[s]) ** 2 for s in starts])) for n in HORIZONS
  ]
  np.testing.assert_allclose(
    found.errors[accuracy.STILL].latent, still, rtol=1e-4
  )
  head, rows = tables.by_horizon(found, HORIZONS)
  assert head == ['', 'z +1', 'z +5', 'frame +1', 'frame +5']
  assert [row[0] for row in rows] == list(found.errors)


def test_rewards_of_dreams_are_compared_with_real_ones(world, episode):
  model = world_model.load(world.vae, world.mdn_rnn)
  batches = accuracy.compare(
    model, [episode], jax.random.key(0), horizons=HORIZONS, seen_steps=SEEN
  )
  real = np.concatenate([batch['reward'] for batch in batches])
  for scale, correlation in (2, 1), (-1, -1), (0, None):
    for batch in batches:
      for name in accuracy.DREAMS:
        batch['dreamt_reward'][name] = scale * batch['reward']
    found = accuracy.summarise(batches)
    for rewards in found.rewards.values():
      assert rewards.correlation == pytest.approx(correlation)
      assert rewards.bias == pytest.approx((scale - 1) * real.mean(), rel=1e-4)
  # The numbers of a standing car: their float32 deviation is not exactly 0.
  constant = dataclasses.replace(
    episode, reward=np.full_like(episode.reward, -0.10000002)
  )
  found = measure(model, [constant])
  assert [x.correlation for x in found.rewards.values()] == [None, None]
  _, [row] = tables.by_driver({'agent': found}, HORIZONS)
  assert row[-1].startswith('–; ')


def test_a_model_without_rewards(world, episode):
  model = world_model.load(world.vae, world.mdn_rnn)
  found = measure(
    model.replace(m=model.m.clone(predict_outcomes=False)), [episode]
  )
  assert found.rewards == {}
  _, [row] = tables.by_driver({'agent': found}, HORIZONS)
  assert row[-2:] == ['–', '–']


def test_drivers_are_told_apart(world, command, tmp_path):
  log = tmp_path / 'log.npz'
  done = command(
    'tools.record',
    '--policy=straight_ahead',
    '--episodes=2',
    '--max_steps=140',
    f'--output={log}',
  )
  assert done.status == 0, done.stderr
  config = rollouts_builder.RolloutsConfig(
    name='mixture', num_episodes=2, max_steps=140, actions=str(log)
  )
  rollouts_builder.Builder(
    data_dir=tmp_path, config=config
  ).download_and_prepare()
  flags = (
    f'--vae={world.vae}',
    f'--mdn_rnn={world.mdn_rnn}',
    '--dataset=carracing_rollouts/mixture',
    f'--data_dir={tmp_path}',
  )
  output = tmp_path / 'errors.json'
  done = command('tools.dream_errors', *flags, f'--output={output}')
  assert done.status == 0, done.stderr
  found = json.loads(output.read_text())
  assert list(found) == ['random_policy', 'straight_ahead', 'all of them']
  assert [x['episodes'] for x in found.values()] == [1, 1, 2]
  random, straight, both = (x['errors'] for x in found.values())
  assert random['VAE alone'] != straight['VAE alone']
  frames = [x['nothing changes']['frame'] for x in (random, straight)]
  np.testing.assert_allclose(
    np.mean(frames, 0), both['nothing changes']['frame']
  )
  assert done.stdout.count('| VAE alone |') == 3
