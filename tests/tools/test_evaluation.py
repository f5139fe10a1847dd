import functools
import io
import itertools
import re
import signal
import time

from carracing_data import errors
from carracing_data import json_documents
from carracing_data import processes
from carracing_rollouts import environment
from carracing_rollouts import policies
from carracing_rollouts import rollout
from carracing_rollouts import schema
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
from tools.driving import drivers
from tools.driving import jobs
from tools.driving import track_scores

MAX_STEPS = 60
locally = functools.partial(processes.run_locally, num_workers=1)


def evaluate(folder, output_dir, episodes=2, run=locally, max_steps=MAX_STEPS):
  driver = drivers.of_agent(folder)
  return track_scores.evaluate(
    driver, folder, 'development', episodes, output_dir, run, max_steps
  )


def evaluate_policy(
  spec, output_dir, episodes=2, name='development', max_steps=30
):
  driver = drivers.of_policy(spec)
  return track_scores.evaluate(
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
  pairs = zip(games, tracks.DEVELOPMENT)
  frames = [game.reset(seed=seed)[0] for game, seed in pairs]
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


def test_two_workers_give_the_same_results(expected, agent_folder, tmp_path):
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
  with pytest.raises(
    track_scores.EvaluationError, match='--episodes=10 or more'
  ):
    evaluate(agent_folder, tmp_path, 9, max_steps=30)


@pytest.mark.parametrize(
  'damage', ['empty', 'text', 'half', 'edited', 'other tracks', 'other rewards']
)
def test_only_intact_results_are_reused(damage, tmp_path):
  class Stopped(Exception):
    pass

  ran = []

  def run(jobs, stop=False):
    ran.append([job.path for job in jobs])
    processes.run_locally(jobs, num_workers=1)
    if stop:
      raise Stopped

  def start(run):
    driver = drivers.of_policy('brownian')
    return track_scores.evaluate(
      driver, None, 'development', 10, tmp_path, run, 20
    )

  with pytest.raises(Stopped):
    start(functools.partial(run, stop=True))
  [[file, other]] = ran
  (file.parent / f'.{file.name}.{"0a" * 16}.tmp').write_text(
    'of a killed worker'
  )
  content = bytearray(file.read_bytes())
  if damage == 'half':
    content = content[: len(content) // 2]
  elif damage == 'edited':
    content[len(content) // 2] ^= 1
  elif damage == 'other tracks':
    content = other.read_bytes()
  elif damage == 'other rewards':
    with np.load(file) as archive:
      stored = {**archive, 'reward': archive['reward'] + 1}
    with io.BytesIO() as edited:
      np.savez_compressed(edited, **stored)
      content = edited.getvalue()
  else:
    content = b'{' if damage == 'text' else b''
  file.write_bytes(content)
  found = start(run)
  assert ran == [[file, other], [file]]
  assert (
    found.drives
    == evaluate_policy('brownian', tmp_path / 'other', 10, max_steps=20).drives
  )


@pytest.mark.parametrize('foreign', ['link', 'folder'])
def test_what_others_have_there_is_kept(foreign, tmp_path):
  theirs, staged = tmp_path / 'theirs', tmp_path / 'out' / '.unfinished'
  theirs.mkdir()
  staged.parent.mkdir()
  if foreign == 'link':
    staged.symlink_to(theirs)
  else:
    staged.mkdir()
    (staged / 'thesis').touch()
  with pytest.raises(errors.UserError, match='is a link|not of this program'):
    evaluate_policy('brownian', tmp_path / 'out', 1, max_steps=5)
  assert not any(theirs.iterdir())
  assert foreign == 'link' or (staged / 'thesis').exists()


def test_what_others_have_there_is_kept_at_the_end(tmp_path):
  staged = tmp_path / '.unfinished'
  evaluate_policy('brownian', tmp_path, 1, max_steps=5)
  staged.mkdir()
  (staged / 'thesis').touch()
  (tmp_path / 'histogram.png').unlink()
  evaluate_policy('brownian', tmp_path, 1, max_steps=5)
  assert [x.name for x in staged.iterdir()] == ['thesis']
  # What the system leaves is in nobody's way.
  (staged / 'thesis').rename(staged / '.DS_Store')
  assert len(evaluate_policy('brownian', tmp_path, 2, max_steps=5).drives) == 2


def test_killed_evaluation_continues_to_the_same_results(command, tmp_path):
  def arguments(output_dir):
    # In 1,000 steps of the stock game, as a user runs it.
    return [
      *('tools.evaluate', '--policy=straight_ahead', '--episodes=9'),
      *('--num_workers=2', f'--output_dir={output_dir}'),
    ]

  staged = tmp_path / 'killed' / '.unfinished'
  process = command.start(*arguments(tmp_path / 'killed'))
  while not list(staged.glob('*.npz')):  # That of the shorter job.
    assert process.poll() is None
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL
  assert not (tmp_path / 'killed' / track_scores.FILE).exists()

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
    (tmp_path / name / track_scores.FILE).read_text()
    for name in ('killed', 'whole')
  ]
  assert texts[0] == texts[1]
  found = track_scores.read(tmp_path / 'whole' / track_scores.FILE)
  # Cars that left the field did not complete the lap.
  assert all(drive.steps < 300 for drive in found.drives)
  assert not any(drive.completed for drive in found.drives)


def drive(policy, seeds, max_steps):
  driven = jobs.drive(
    environment.Environments(seeds, max_steps),
    policy,
    [jobs.policy_seed(seed) for seed in seeds],
  )
  return [(x.action.tolist(), x.reward.tolist(), x.terminated) for x in driven]


def test_a_drive_depends_on_its_track_alone():
  policy = policies.make('random_policy')
  seeds = list(tracks.DEVELOPMENT[:3])
  together = drive(policy, seeds, max_steps=20)
  assert drive(policy, seeds[::-1], max_steps=20) == together[::-1]
  assert drive(policy, seeds[1:2], max_steps=20) == together[1:2]
  assert len({tuple(rewards) for _, rewards, _ in together}) > 1


def test_another_evaluation_is_not_overwritten(agent_folder, tmp_path):
  whole = tmp_path / 'whole'
  evaluate_policy('brownian', whole, max_steps=5)
  with pytest.raises(
    track_scores.EvaluationError,
    match='something else: policy brownian, not uniform; choose another',
  ):
    evaluate_policy('uniform', whole, max_steps=5)
  with pytest.raises(
    track_scores.EvaluationError, match='tracks development, not selection;'
  ):
    evaluate_policy('brownian', whole, name='selection', max_steps=5)
  with pytest.raises(
    track_scores.EvaluationError,
    match='policy brownian, not none; vae none, not ',
  ):
    evaluate(agent_folder, whole, max_steps=5)

  def fail(jobs):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    evaluate(agent_folder, tmp_path / 'part', run=fail)
  with pytest.raises(
    track_scores.EvaluationError, match='policy none, not unif'
  ):
    evaluate_policy('uniform', tmp_path / 'part')


def test_other_packages_show_but_do_not_extend_an_evaluation(tmp_path):
  found = evaluate_policy('brownian', tmp_path, max_steps=5)
  content = found.model_dump(by_alias=True)
  content['subject']['packages']['box2d'] = '1.0'
  json_documents.write(
    tmp_path / track_scores.FILE, json_documents.sealed(content, 'sha256')
  )
  again = evaluate_policy('brownian', tmp_path, max_steps=5)
  assert again.drives == found.drives
  with pytest.raises(
    track_scores.EvaluationError, match='package box2d 1.0, not 2'
  ):
    evaluate_policy('brownian', tmp_path, episodes=3, max_steps=5)


def test_an_edited_evaluation_is_not_believed(tmp_path):
  evaluate_policy('brownian', tmp_path, max_steps=5)
  path = tmp_path / track_scores.FILE
  path.write_text(path.read_text().replace('"steps": 5', '"steps": 6', 1))
  with pytest.raises(errors.DocumentError, match='damaged: .*; delete it'):
    evaluate_policy('brownian', tmp_path, max_steps=5)


def test_an_evaluation_of_other_tracks_is_not_believed(tmp_path):
  found = evaluate_policy('brownian', tmp_path, max_steps=5)
  content = found.model_dump(by_alias=True)
  content['drives'].reverse()
  json_documents.write(
    tmp_path / track_scores.FILE, json_documents.sealed(content, 'sha256')
  )
  with pytest.raises(errors.DocumentError, match='not the first ones of a set'):
    evaluate_policy('brownian', tmp_path, max_steps=5)


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

  def __call__(self, observation, carry, imposed):
    ahead = observation[:, 34:42].astype(int)
    road = ahead.max(-1) - ahead.min(-1) < 12
    columns = np.arange(64) - 31.5
    offset = (road * columns).sum((1, 2)) / np.maximum(road.sum((1, 2)), 1)
    gas = np.where(carry < 130, 0.2, 0.002)
    action = np.stack([np.clip(offset / 10, -1, 1), gas, 0 * gas], -1)
    return action.astype(np.float32), carry + 1


def test_only_a_finished_lap_is_completed():
  def follow(max_steps):
    game = environment.Environments([tracks.DEVELOPMENT[2]], max_steps)
    [driven] = jobs.drive(game, Follower(), [jobs.policy_seed(0)])
    return driven

  lap = follow(environment.MAX_STEPS)
  steps = len(lap.action)
  assert lap.completed and steps < environment.MAX_STEPS
  # Every tile of the track counts once, and every step costs 0.1.
  np.testing.assert_allclose(lap.scores()[-1], 1000 - steps / 10, atol=0.2)
  cut = follow(steps - 1)
  assert not cut.completed and len(cut.action) == steps - 1


def test_track_sets_are_disjoint():
  for one, other in itertools.combinations(tracks.SETS.values(), 2):
    assert set(one).isdisjoint(other)
  [earlier] = tracks.EARLIER_SETS.values()
  assert earlier[:1000] == tracks.DEVELOPMENT[:1000]
  rng = np.random.default_rng(0)
  drawn = [tracks.training(rng) for _ in range(1000)]
  # Datasets of version 1 have seeds of 31 bits.
  assert 2**31 <= min(drawn) and max(drawn) < 2**32
  for seeds in tracks.SETS.values():
    assert 2**32 <= min(seeds) and max(seeds) < 2**52


def test_no_track_of_a_dataset_is_in_two_splits_or_in_a_set():
  found = {
    split: {rollout.track(seed, split, i) for seed in (0, 7) for i in range(99)}
    for split in schema.SPLITS
  }
  assert [len(x) for x in found.values()] == [198, 198]
  assert {seed % 2 for seed in found['train']} == {0}
  assert {seed % 2 for seed in found['validation']} == {1}
  # JavaScript tells them apart.
  assert all(2**52 <= seed < 2**53 for x in found.values() for seed in x)
