import functools
import re
import signal
import time

from carracing_data import beam
from carracing_data import errors
from carracing_data import json_documents
from carracing_data import processes
from carracing_rollouts import environment
from carracing_rollouts import policies
from carracing_rollouts import scores
from carracing_rollouts import tracks
import cv2
import gymnasium
import imageio.v3 as imageio
import jax
from models import agent
from models import world_model
import numpy as np
import pytest
from tools.driving import drives
from tools.driving import evaluation

MAX_STEPS = 60
BEAM = (
  'runner=DirectRunner,direct_running_mode=multi_processing,'
  'direct_num_workers=2'
)
locally = functools.partial(processes.run_locally, num_workers=1)


def evaluate(folder, output_dir, episodes=2, run=locally, max_steps=MAX_STEPS):
  driver = drives.of_agent(folder)
  return evaluation.evaluate(
    driver, folder, 'test', episodes, output_dir, run, max_steps
  )


def evaluate_policy(spec, output_dir, episodes=2, name='test', max_steps=30):
  driver = drives.of_policy(spec)
  return evaluation.evaluate(
    driver, None, name, episodes, output_dir, locally, max_steps
  )


def test_equals_a_loop_around_the_stock_game(agent_folder, tmp_path):
  found = evaluate(agent_folder, tmp_path)

  driver = agent.load(agent_folder)
  model = driver.model
  encode = jax.jit(lambda x: world_model.encode(model, x).mean)
  act = jax.jit(lambda z, h: driver.c.apply(driver.c_variables, z, h))
  update = jax.jit(lambda *x: world_model.predict(model, *x)[1])
  games = [
    gymnasium.make('CarRacing-v3', max_episode_steps=MAX_STEPS)
    for _ in range(2)
  ]
  frames = [game.reset(seed=seed)[0] for game, seed in zip(games, tracks.TEST)]
  carry = model.m.initial_carry(2)
  returns = np.zeros(2)
  for _ in range(MAX_STEPS):
    small = [
      cv2.resize(frame[:84], (64, 64), interpolation=cv2.INTER_AREA)
      for frame in frames
    ]
    z = encode(np.stack(small))
    action = act(z, carry[1])
    carry = update(world_model.State(z, carry), action)
    frames, rewards, terminated, _, _ = zip(
      *[game.step(a) for game, a in zip(games, np.asarray(action))]
    )
    returns += np.float32(rewards)
    assert not any(terminated)

  assert [drive.return_ for drive in found.drives] == returns.tolist()
  assert [drive.steps for drive in found.drives] == [MAX_STEPS] * 2
  assert len({drive.return_ for drive in found.drives}) == 2


@pytest.fixture(scope='module')
def expected(agent_folder, tmp_path_factory):
  """Drives of 10 tracks, two jobs, in one process."""
  folder = tmp_path_factory.mktemp('expected')
  return evaluate(agent_folder, folder, episodes=10, max_steps=30).drives


@pytest.mark.parametrize('how', ['two workers', 'Beam'])
def test_runners_give_the_same_results(how, expected, agent_folder, tmp_path):
  if how == 'Beam':
    run = functools.partial(beam.run, config=beam.config(BEAM))
  else:
    run = functools.partial(processes.run_locally, num_workers=2)
  found = evaluate(agent_folder, tmp_path, 10, run, max_steps=30)
  assert found.drives == expected


def test_more_tracks_extend_an_evaluation(expected, agent_folder, tmp_path):
  first = evaluate(agent_folder, tmp_path, 1, max_steps=30)
  assert first.drives == expected[:1]
  second = evaluate(agent_folder, tmp_path, 10, max_steps=30)
  assert second.drives == expected

  def run(jobs):
    raise AssertionError('nothing is left to run')

  assert evaluate(agent_folder, tmp_path, 10, run, 30) == second
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ['.lock', 'evaluation.json', 'histogram.png']
  with pytest.raises(evaluation.EvaluationError, match='--episodes=10 or more'):
    evaluate(agent_folder, tmp_path, 9, max_steps=30)


@pytest.mark.parametrize(
  'damage',
  ['', '{', 'half', ('"completed": false', '"completed": true'), 'other track'],
)
def test_only_intact_results_are_reused(damage, tmp_path):
  class Stopped(Exception):
    pass

  ran = []

  def run(jobs, stop=False):
    ran.append([job.first for job in jobs])
    processes.run_locally(jobs, num_workers=1)
    if stop:
      raise Stopped

  def start(run):
    driver = drives.of_policy('brownian')
    return evaluation.evaluate(driver, None, 'test', 10, tmp_path, run, 20)

  with pytest.raises(Stopped):
    start(functools.partial(run, stop=True))
  staged = tmp_path / '.unfinished'
  file, other = staged / 'test-000000.json', staged / 'test-000008.json'
  (staged / '.test-000000.json.0.tmp').write_text('of a killed worker')
  text = file.read_text()
  if damage == 'half':
    file.write_text(text[: len(text) // 2])
  elif damage == 'other track':
    file.write_text(other.read_text())
  elif isinstance(damage, tuple):
    assert damage[0] in text
    file.write_text(text.replace(*damage, 1))
  else:
    file.write_text(damage)
  found = start(run)
  assert ran == [[0, 8], [0]]
  assert (
    found.drives
    == evaluate_policy('brownian', tmp_path / 'other', 10, max_steps=20).drives
  )


def test_killed_evaluation_continues_to_the_same_results(command, tmp_path):
  def arguments(output_dir):
    # In 1,000 steps of the stock game, as a user runs it.
    return [
      *('tools.evaluate', '--policy=straight_ahead', '--episodes=9'),
      *('--num_workers=2', f'--output_dir={output_dir}'),
    ]

  staged = tmp_path / 'killed' / '.unfinished'
  process = command.start(*arguments(tmp_path / 'killed'))
  while not (staged / 'test-000008.json').exists():  # The shorter job.
    assert process.poll() is None
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL
  assert not (tmp_path / 'killed' / evaluation.FILE).exists()

  for name in 'killed', 'whole':
    done = command(*arguments(tmp_path / name))
    assert done.status == 0, done.stderr
    summary = (
      r'-?[\d.]+ ± [\d.]+ over 9 tracks \(standard error [\d.]+\) · .*\n'
    )
    assert re.fullmatch(summary, done.stdout), done.stdout
    assert (' evaluation 1/9\n' in done.stderr) == (name == 'killed')
    assert imageio.imread(tmp_path / name / 'histogram.png').shape[1] > 500
  texts = [
    (tmp_path / name / evaluation.FILE).read_text()
    for name in ('killed', 'whole')
  ]
  assert texts[0] == texts[1]
  found = evaluation.read(tmp_path / 'whole' / evaluation.FILE)
  # Cars that left the field did not complete the lap.
  assert all(drive.steps < 300 for drive in found.drives)
  assert not any(drive.completed for drive in found.drives)


def test_a_drive_depends_on_its_track_alone():
  policy = policies.make('random_policy')
  seeds = list(tracks.TEST[:3])
  together = drives.drive(policy, seeds, max_steps=20)
  assert drives.drive(policy, seeds[::-1], max_steps=20) == together[::-1]
  assert drives.drive(policy, seeds[1:2], max_steps=20) == together[1:2]
  assert len({drive.return_ for drive in together}) > 1


def test_another_evaluation_is_not_overwritten(agent_folder, tmp_path):
  whole = tmp_path / 'whole'
  evaluate_policy('brownian', whole, max_steps=5)
  with pytest.raises(
    evaluation.EvaluationError,
    match='something else: policy brownian, not uniform; choose another',
  ):
    evaluate_policy('uniform', whole, max_steps=5)
  with pytest.raises(
    evaluation.EvaluationError, match='tracks test, not selection;'
  ):
    evaluate_policy('brownian', whole, name='selection', max_steps=5)
  with pytest.raises(
    evaluation.EvaluationError, match='policy brownian, not none; controller no'
  ):
    evaluate(agent_folder, whole, max_steps=5)

  def fail(jobs):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    evaluate(agent_folder, tmp_path / 'part', run=fail)
  with pytest.raises(evaluation.EvaluationError, match='policy none, not unif'):
    evaluate_policy('uniform', tmp_path / 'part')


def test_other_packages_show_but_do_not_extend_an_evaluation(tmp_path):
  found = evaluate_policy('brownian', tmp_path, max_steps=5)
  content = found.model_dump(by_alias=True)
  content['subject']['packages']['box2d'] = '1.0'
  json_documents.write(
    tmp_path / evaluation.FILE, json_documents.sealed(content, 'sha256')
  )
  again = evaluate_policy('brownian', tmp_path, max_steps=5)
  assert again.drives == found.drives
  with pytest.raises(
    evaluation.EvaluationError, match='package box2d 1.0, not 2'
  ):
    evaluate_policy('brownian', tmp_path, episodes=3, max_steps=5)


def test_an_edited_evaluation_is_not_believed(tmp_path):
  evaluate_policy('brownian', tmp_path, max_steps=5)
  path = tmp_path / evaluation.FILE
  path.write_text(path.read_text().replace('"steps": 5', '"steps": 6', 1))
  with pytest.raises(errors.DocumentError, match='damaged: .*; delete it'):
    evaluate_policy('brownian', tmp_path, max_steps=5)


def test_an_evaluation_of_other_tracks_is_not_believed(tmp_path):
  found = evaluate_policy('brownian', tmp_path, max_steps=5)
  content = found.model_dump(by_alias=True)
  content['drives'].reverse()
  json_documents.write(
    tmp_path / evaluation.FILE, json_documents.sealed(content, 'sha256')
  )
  with pytest.raises(errors.DocumentError, match='not the first ones of a set'):
    evaluate_policy('brownian', tmp_path, max_steps=5)


def test_a_failure_of_beam_is_one_line(command, tmp_path):
  done = command(
    'tools.evaluate',
    '--policy=straight_ahead',
    '--episodes=1',
    f'--output_dir={tmp_path}',
    '--beam_pipeline_options=direct_num_workers=-1',
  )
  assert done.status == 1
  assert 'Traceback' not in done.stderr
  assert 'Error: Beam failed with ' in done.stderr


def test_summary_of_four_drives():
  summary = scores.summarize(
    np.array([900.0, 800, 700, 600]), np.array([True, True, False, False])
  )
  assert summary.mean == summary.median == 750
  deviation = np.sqrt((150**2 + 50**2 + 50**2 + 150**2) / 3)
  np.testing.assert_allclose(summary.standard_deviation, deviation)
  np.testing.assert_allclose(summary.standard_error, deviation / 2)
  assert (summary.least, summary.episodes) == (600, 4)
  assert (summary.laps_completed, summary.below_700) == (0.5, 0.25)
  assert scores.describe(summary) == (
    '750.0 ± 129.1 over 4 tracks (standard error 64.5) · median 750'
    ' · least 600 · laps 50.0 % · below 700 25.0 %'
  )


def test_summary_of_a_single_drive_has_no_deviation():
  summary = scores.summarize(np.array([900.0]), np.array([True]))
  assert summary.standard_deviation is None
  assert summary.standard_error is None
  assert scores.describe(summary).startswith('900.0 over 1 track · median 900')


class Follower:
  """Gains speed once, and steers towards the grey in front of the car."""

  def initial_carry(self, seeds):
    return np.zeros(len(seeds))

  def __call__(self, observation, carry):
    ahead = observation[:, 34:42].astype(int)
    road = ahead.max(-1) - ahead.min(-1) < 12
    columns = np.arange(64) - 31.5
    offset = (road * columns).sum((1, 2)) / np.maximum(road.sum((1, 2)), 1)
    gas = np.where(carry < 130, 0.2, 0.002)
    action = np.stack([np.clip(offset / 10, -1, 1), gas, 0 * gas], -1)
    return action.astype(np.float32), carry + 1


def test_only_a_finished_lap_is_completed():
  [lap] = drives.drive(Follower(), [tracks.TEST[2]], environment.MAX_STEPS)
  assert lap.completed and lap.steps < environment.MAX_STEPS
  # Every tile of the track counts once, and every step costs 0.1.
  np.testing.assert_allclose(lap.return_, 1000 - lap.steps / 10, atol=0.2)
  [cut] = drives.drive(Follower(), [tracks.TEST[2]], lap.steps - 1)
  assert not cut.completed and cut.steps == lap.steps - 1


def test_track_sets_are_disjoint():
  assert set(tracks.TEST).isdisjoint(tracks.SELECTION)
  assert len(tracks.TEST) == 100_000 and len(tracks.SELECTION) == 1000
  rng = np.random.default_rng(0)
  drawn = [tracks.training(rng) for _ in range(1000)]
  # Datasets have seeds of 31 bits.
  assert 2**31 <= min(drawn) and max(drawn) < 2**32
  for seeds in tracks.SETS.values():
    assert min(seeds) >= 2**32
