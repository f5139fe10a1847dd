"""Drivers in the game and in dreams, and how well the two agree."""

import functools
import json
import operator

from carracing_data import errors
from carracing_data import json_documents
import jax
from models import agent
from models import world_model
import numpy as np
import pytest
from tools.dream_fidelity import comparison
from tools.dream_fidelity import documents
from tools.driving import probes

STEPS = 66
SUBJECT = documents.Subject(
  drivers='development',
  agent={'controller': 'c' * 64},
  mdn_rnn='e' * 64,
  temperature=1.0,
  noise=0.0,
  seed=0,
  dreams_per_track=1,
  max_steps=STEPS,
)


@pytest.fixture(scope='module')
def driven(agent_folder, tmp_path_factory):
  folder = tmp_path_factory.mktemp('driven')
  found, actions = comparison.drive(
    probes.DEVELOPMENT,
    agent_folder,
    [1, 2],
    folder,
    lambda jobs: [job() for job in jobs],
    STEPS,
  )
  done = {}
  for path in folder.glob('*.npz'):
    with np.load(path) as archive:
      done[path] = archive['action'].reshape(2, STEPS, 3)
  return found, actions, [*done.values()]


def test_all_drivers_take_over_at_the_same_steps(driven):
  found, actions, done = driven
  assert found.keys() == probes.DEVELOPMENT.keys()
  assert len(done) == len(probes.DEVELOPMENT) >= 14
  for action in done:
    np.testing.assert_array_equal(action[:, : probes.TAKES_OVER], actions)
  after = [x[:, probes.TAKES_OVER :] for x in done]
  for constant in (0, 0, 0), (0, 1, 0), (0, 0, 0.5), (0, 0.5, 0.5):
    assert any((x == np.float32(constant)).all() for x in after)
  for rewards in found.values():
    np.testing.assert_array_equal(rewards.steps, STEPS - probes.TAKES_OVER)


def test_dreams_are_what_m_imagines_of_what_drivers_do(agent_folder, driven):
  driver, (_, actions, _) = agent.load(agent_folder), driven
  z = comparison.watched(driver.model, [1, 2], actions)
  assert z.shape == (2, probes.TAKES_OVER + 1, 32)
  found = comparison.dream(
    probes.DEVELOPMENT,
    driver,
    driver.model,
    z,
    np.stack(actions),
    jax.random.key(0),
    dreams_per_track=2,
    num_steps=3,
    temperature=0.0,  # Nothing is drawn, so all dreams of a track are the same.
    noise=0.0,
  )
  imagine, watch = jax.jit(world_model.imagine), jax.jit(world_model.watch)
  for name in 'nothing', 'gas_and_brake', 'agent', 'agent_half_steering':
    probe = probes.stacked([probes.DEVELOPMENT[name]] * 2)
    state = watch(driver.model, z, np.stack(actions))
    total = np.zeros(2)
    for step in range(3):
      draws = probes.initial_draws(np.zeros((2, 3)))
      action = probes.act(probe, agent.act(driver, state), step, draws)
      state, reward, termination = imagine(
        driver.model, state, action, jax.random.key(1), 0.0
      )
      assert reward is not None and termination is not None
      assert (termination < world_model.LIKELY_TERMINATION).all()
      total += reward
    np.testing.assert_allclose(found[name].total, total, atol=1e-3)
    np.testing.assert_array_equal(found[name].steps, 3)


def test_correlations_are_those_of_the_drivers():
  rng = np.random.default_rng(0)
  rates = {f'driver_{i}': rate for i, rate in enumerate(np.arange(15) ** 2)}
  steps = np.full(40, 100.0)

  def rewards(rate):
    return comparison.Rewards(rate * steps + rng.normal(0, 5, 40), steps)

  game = {name: rewards(rate) for name, rate in rates.items()}
  same = comparison.compare(SUBJECT, game, game)
  assert same.spearman.value == same.pearson.value == 1
  assert same.error.value == same.error.high == 0
  assert same.game == same.dream and same.tracks == 40
  of_one = same.game['driver_3']
  assert of_one.reward_per_step == pytest.approx(9, abs=0.05)
  assert of_one.standard_error == pytest.approx(0.05 / 40**0.5, rel=0.4)
  bent = {name: rewards(rate**0.5) for name, rate in rates.items()}
  found = comparison.compare(SUBJECT, game, bent)
  assert found.spearman.value > 0.99 > found.pearson.value > 0.9
  worse = {name: rewards(-rate) for name, rate in rates.items()}
  assert comparison.compare(SUBJECT, game, worse).spearman.value < -0.99
  noisy = {
    name: comparison.Rewards(
      rewards(rate).total + rng.normal(0, 999, 40), steps
    )
    for name, rate in rates.items()
  }
  found = comparison.compare(SUBJECT, game, noisy)
  for x in found.spearman, found.pearson, found.error:
    assert x.low < x.value < x.high or x.value == 1
  # A driver with few steps counts by its steps.
  uneven = comparison.Rewards(np.array([10.0, 0.0]), np.array([10.0, 30.0]))
  even = comparison.Rewards(np.array([20.0, 20.0]), np.array([10.0, 10.0]))
  of_two = comparison.compare(
    SUBJECT, {'a': uneven, 'b': even}, {'a': even, 'b': even}
  )
  assert of_two.game['a'].reward_per_step == 0.25
  # Drivers that are alike cannot be ranked, not even by the game.
  alike = {name: rewards(0) for name in rates}
  assert comparison.compare(SUBJECT, alike, alike).ceiling_spearman < 0.9


@pytest.mark.parametrize(
  ('path', 'value'),
  [
    (['game'], {}),
    (
      ['game', 'nobody'],
      {'reward_per_step': 0, 'standard_error': 0, 'total': 0},
    ),
    (['game', 'agent', 'standard_error'], -1),
    (['game', 'agent', 'total'], 'much'),
    (['subject', 'drivers'], 'mine'),
    (['subject', 'mdn_rnn'], '../x'),
    (['error'], None),
    # What contradicts the drivers.
    (['spearman', 'value'], 0.5),
    (['pearson', 'value'], 0.5),
    (['pearson', 'low'], 2.0),
    (['error', 'value'], 0.5),
    (['dream', 'nothing', 'reward_per_step'], 7.0),
  ],
)
def test_edited_comparison_is_refused(path, value, tmp_path):
  game = {
    name: comparison.Rewards(np.arange(2.0) + rate, np.ones(2))
    for rate, name in enumerate(['nothing', 'gas', 'agent'])
  }
  content = comparison.compare(SUBJECT, game, game).model_dump()
  file = tmp_path / documents.FILE
  json_documents.write(file, content)
  json_documents.read(file, documents.Fidelity)
  *parents, last = path
  functools.reduce(operator.getitem, parents, content)[last] = value
  json_documents.write(file, content)
  with pytest.raises(errors.DocumentError, match='fidelity.json'):
    json_documents.read(file, documents.Fidelity)


def test_command_measures_and_goes_on(agent_folder, command, tmp_path):
  flags = [
    f'--agent={agent_folder}', '--num_tracks=2', f'--max_steps={STEPS}',
    f'--output_dir={tmp_path}', '--num_workers=1',
  ]  # fmt: skip
  done = command('tools.dream_fidelity', *flags)
  assert done.status == 0, done.stderr
  assert '| agent half gas |' in done.stdout
  assert 'Over 14 drivers and 2 tracks: rank correlation ' in done.stdout
  found = json.loads((tmp_path / 'fidelity.json').read_text())
  assert found['game'].keys() == probes.DEVELOPMENT.keys()
  assert (tmp_path / 'fidelity.png').exists()
  assert found['subject']['agent'] == agent.digests(agent_folder)
  [kept, *lost] = sorted((tmp_path / 'driven').glob('*.npz'))
  times = kept.stat().st_mtime_ns
  lost[0].unlink()
  lost[1].write_bytes(b'damaged')
  again = command('tools.dream_fidelity', *flags)
  assert again.stdout == done.stdout
  assert kept.stat().st_mtime_ns == times
  assert len(sorted((tmp_path / 'driven').glob('*.npz'))) == 1 + len(lost)
