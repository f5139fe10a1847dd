"""Action logs: recorded, interrupted, replayed, refused."""

import io
import itertools
import json
import os
from pathlib import Path
import re
import shutil
import statistics
import subprocess
import sys
import tracemalloc
import zipfile

from carracing_data import errors
from carracing_data import prepared_dataset
from carracing_data import processes
from carracing_data import verification
from carracing_rollouts import action_log
from carracing_rollouts import carracing_rollouts_dataset_builder as builder_lib
from carracing_rollouts import environment
from carracing_rollouts import loader
from carracing_rollouts import rollout
from carracing_rollouts import schema
from carracing_rollouts import who_drove
from conftest import made_once
from conftest import PROJECT
from models import agent
import numpy as np
import pytest
import tensorflow_datasets as tfds
from tools.driving import drivers
from tools.driving import recorded_actions
from tools.view_rollouts import replay

STEPS = 40


def record_command(command, agent_folder, output, *flags):
  return command(
    'tools.record',
    f'--agent={agent_folder}',
    '--noise=0,0.5',
    '--episodes=4',
    f'--max_steps={STEPS}',
    '--seed=5',
    f'--output={output}',
    *flags,
  )


@pytest.fixture(scope='session')
def log_file(agent_folder, tmp_path_factory, command):
  """Log of 3 + 1 episodes of an agent, without and with noise in turns."""

  def make(folder):
    folder.mkdir()
    done = record_command(command, agent_folder, folder / 'log.npz')
    assert done.status == 0, done.stderr
    assert 'recording 4/4 · ' in done.stderr
    assert re.search(
      r'agent, noise 0\.5: 1 episode, return -?[\d.]+\n', done.stdout
    )
    assert re.search(r'agent: 3 episodes, return -?[\d.]+ ± ', done.stdout)

  return made_once(tmp_path_factory, 'action_log', make) / 'log.npz'


def build(data_dir, log_file, num_workers=1, **config):
  config = {'name': 'recorded', 'policy': 'recorded', **config}
  builder = builder_lib.Builder(
    data_dir=data_dir,
    config=builder_lib.RolloutsConfig(
      actions=str(log_file), max_steps=STEPS, **config
    ),
    num_workers=num_workers,
  )
  builder.download_and_prepare()
  return prepared_dataset.find(builder.data_dir, None, schema.KIND)


def test_log_says_who_drove_what(log_file, agent_folder):
  log = action_log.read(log_file)
  digests = action_log.AgentWeights(**agent.digests(agent_folder))
  assert log.header.simulator == 'gymnasium'
  assert log.header.packages == rollout.versions('gymnasium')
  assert [(e.split, e.driver.noise) for e in log.header.episodes] == [
    ('train', 0.0),
    ('train', 0.5),
    ('train', 0.0),
    ('validation', 0.0),
  ]
  for episode, actions in zip(log.header.episodes, log.actions, strict=True):
    assert episode.driver.weights_sha256 == digests
    assert not episode.terminated
    assert len(actions) == episode.num_steps == STEPS
    # −0.1 per step at least, and some tiles after the start.
    assert -0.1 * STEPS < episode.return_ < 200


def test_without_noise_the_log_holds_what_the_agent_does(
  log_file, agent_folder
):
  driver = agent.load(agent_folder)
  log = action_log.read(log_file)
  for index in 0, 2:
    episode = log.header.episodes[index]
    [played] = rollout.episodes(
      environment.Environments([episode.track_seed], STEPS), driver, [None]
    )
    np.testing.assert_array_equal(played.action[:-1], log.actions[index])
    assert action_log.total(played.reward) == episode.return_


def test_the_same_command_finds_its_log(log_file, agent_folder, command):
  before = log_file.read_bytes(), log_file.stat().st_mtime_ns
  done = record_command(command, agent_folder, log_file)
  assert done.status == 0, done.stderr
  assert (log_file.read_bytes(), log_file.stat().st_mtime_ns) == before
  other = record_command(command, agent_folder, log_file, '--seed=6')
  assert 'holds another log' in other.stderr
  assert log_file.read_bytes() == before[0]


def make_plan(seed=3):
  return recorded_actions.Plan(
    (drivers.of_policy('brownian'),), None, seed, 'sketched', STEPS
  )


def run_all(jobs):
  processes.run_locally(jobs, num_workers=1)


@pytest.mark.parametrize('damage', [None, 'truncated', 'empty', 'swapped'])
def test_interrupted_recording_goes_on(damage, tmp_path):
  def count_and_run(jobs):
    counts.append(len(jobs))
    processes.run_locally(jobs, num_workers=2)

  def run_one(jobs):
    jobs[0]()
    raise KeyboardInterrupt

  def interrupted(seed, name):
    with pytest.raises(KeyboardInterrupt):
      recorded_actions.record(make_plan(seed), 12, tmp_path / name, run_one)
    [part] = tmp_path.glob(f'.{name}.unfinished/*.npz')
    return part

  counts = []
  recorded_actions.record(make_plan(), 12, tmp_path / 'whole.npz', run_all)
  part = interrupted(3, 'log.npz')
  content = part.read_bytes()
  if damage == 'swapped':  # A good one, but of other tracks.
    part.write_bytes(interrupted(4, 'other.npz').read_bytes())
    shutil.rmtree(tmp_path / '.other.npz.unfinished')
  elif damage:
    part.write_bytes(content[: len(content) // 2] if damage[0] == 't' else b'')
  recorded_actions.record(make_plan(), 12, tmp_path / 'log.npz', count_and_run)
  assert counts == [3 if damage else 2]
  whole = (tmp_path / 'whole.npz').read_bytes()
  assert (tmp_path / 'log.npz').read_bytes() == whole
  assert sorted(p.name for p in tmp_path.iterdir()) == ['log.npz', 'whole.npz']


@pytest.fixture
def short_log(tmp_path):
  """Log of 8 + 1 episodes."""
  path = tmp_path / 'log.npz'
  recorded_actions.record(make_plan(), 9, path, run_all)
  return path


def test_more_episodes_extend_a_log_as_if_recorded_at_once(short_log, tmp_path):
  def run(jobs):
    ran.extend(drive.track for job in jobs for drive in job.drives)
    run_all(jobs)

  ran = []
  whole = tmp_path / 'whole.npz'
  recorded_actions.record(make_plan(), 21, whole, run_all)
  recorded_actions.record(make_plan(), 21, short_log, run)
  assert short_log.read_bytes() == whole.read_bytes()
  # Those that are new, and the one by which the others are checked.
  assert len(ran) == len({*ran}) == 12 + 1
  with pytest.raises(
    errors.UserError, match='of 21 episodes; pass --episodes='
  ):
    recorded_actions.record(make_plan(), 9, short_log, run_all)
  assert short_log.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize('other', ['actions', 'packages'])
def test_a_log_that_was_driven_otherwise_is_not_extended(other, short_log):
  log = action_log.read(short_log)
  if other == 'actions':
    log.actions[0][0, 1] /= 2
    message = 'this machine, with these packages, drives its first'
  else:
    log.header.packages['box2d'] = '0.9'
    message = "other packages, {'box2d': '0.9'.*cannot be extended"
  action_log.write(short_log, log)
  content = short_log.read_bytes()
  with pytest.raises(errors.UserError, match=f'{message}.*another --output'):
    recorded_actions.record(make_plan(), 21, short_log, run_all)
  assert short_log.read_bytes() == content


def test_spread_of_a_log_is_that_of_scores(short_log):
  log = action_log.read(short_log)
  returns = [episode.return_ for episode in log.header.episodes]
  spread = f'{statistics.mean(returns):.1f} ± {statistics.stdev(returns):.1f}'
  said, build = recorded_actions.describe(log, short_log)
  assert f'"actions": "{short_log}"' in build
  assert said == f'brownian: 9 episodes, return {spread}'


def test_log_inside_the_dataset_survives_building_again(log_file, tmp_path):
  dataset = build(tmp_path, log_file)
  attached = dataset.folder / schema.ACTION_LOG
  before = dataset.content_digests
  # An incomplete folder is moved aside, with the log in it.
  [*_, shard] = sorted(dataset.folder.glob('*.array_record-*'))
  shard.unlink()
  assert build(tmp_path, attached).content_digests == before
  config = builder_lib.RolloutsConfig(
    name='recorded', policy='recorded', actions=str(attached), max_steps=STEPS
  )
  again = builder_lib.Builder(data_dir=tmp_path, config=config, num_workers=1)
  again.download_and_prepare(
    download_config=tfds.download.DownloadConfig(
      download_mode=tfds.download.GenerateMode.REUSE_CACHE_IF_EXISTS
    )
  )
  assert prepared_dataset.find(again.data_dir).content_digests == before
  assert attached.read_bytes() == log_file.read_bytes()


def test_dataset_holds_what_was_driven(log_file, tmp_path):
  dataset = build(tmp_path, log_file)
  verification.verify(dataset)
  log = action_log.read(log_file)
  for split in schema.SPLITS:
    episodes = loader.episodes(
      'carracing_rollouts/recorded', split=split, data_dir=tmp_path
    )
    logged = log.of_split(split)
    assert len(episodes) == len(logged)
    for episode, (described, actions) in zip(episodes, logged):
      np.testing.assert_array_equal(episode.action[:-1], actions)
      assert action_log.total(episode.reward) == described.return_
  copied = dataset.folder / schema.ACTION_LOG
  assert copied.read_bytes() == log_file.read_bytes()
  # Identity is the content, not the path.
  moved = shutil.copy(log_file, tmp_path / 'moved.npz')
  assert build(tmp_path, moved).folder == dataset.folder


def test_mixture_appends_the_log_to_episodes_of_a_policy(log_file, tmp_path):
  dataset = build(
    tmp_path, log_file, num_workers=2, policy='uniform', num_episodes=3
  )
  for split, count in ('train', 2), ('validation', 1):
    episodes = loader.episodes(
      'carracing_rollouts/recorded', split=split, data_dir=tmp_path
    )
    drawn = rollout.generate(
      split,
      count - 1,
      seed=0,
      policy='uniform',
      simulator='gymnasium',
      max_steps=STEPS,
    )
    np.testing.assert_array_equal(episodes[count - 1].action, drawn.action)
    [(logged, actions), *_] = action_log.read(log_file).of_split(split)
    np.testing.assert_array_equal(episodes[count].action[:-1], actions)
    # Both kinds can be replayed from the dataset alone.
    origin = who_drove.of_split(dataset, split)
    assert len(origin) == len(episodes)
    assert origin[0].driver.title == 'uniform'
    assert origin[count] == (logged.track_seed, logged.driver)
    for i in 0, count:
      seed = origin[i].track_seed
      frames = replay.replay(dataset, seed, episodes[i])
      assert frames is not None


def test_preset_has_all_disturbances_and_replays(monkeypatch):
  folder = Path(builder_lib.__file__).parent
  config = json.loads((folder / 'presets' / 'driven.json').read_text())
  monkeypatch.chdir(PROJECT)  # As `tfds build` is run.
  assert builder_lib.RolloutsConfig(**config).num_episodes == 0
  path = PROJECT / config['actions']
  assert path.stat().st_size <= 2e6
  log = action_log.read(path)
  drivers = [episode.driver for episode in log.header.episodes]
  assert len(drivers) == 160
  assert {driver.name for driver in drivers} == {'agent'}
  kinds = itertools.product((0, 0.3), (0, 0.02))
  for noise, interventions in kinds:
    found = [(x.noise, x.interventions) for x in drivers]
    assert found.count((noise, interventions)) * 4 == len(drivers)
  for split in schema.SPLITS:
    pairs = log.of_split(split)
    assert len({logged.driver for logged, _ in pairs}) == 4
    logged, actions = min(pairs, key=lambda pair: pair[0].num_steps)
    # Fails if the return is another one.
    assert len(rollout.replay(logged, actions, 'sketched')) == len(actions) + 1


def edited(log_file, target, change):
  """Writes a log with a changed header."""
  log = action_log.read(log_file)
  header = log.header.model_dump(by_alias=True)
  change(header)
  header = action_log.Header.model_validate(header)
  action_log.write(target, log._replace(header=header))
  return target


def test_other_returns_are_refused_with_both_versions(log_file, tmp_path):
  def change(header):
    header['packages']['gymnasium'] = '0.9'
    header['episodes'][1]['return'] += 0.5

  log = edited(log_file, tmp_path / 'log.npz', change)
  with pytest.raises(errors.DatasetError) as raised:
    build(tmp_path, log, num_workers=2)
  installed = rollout.versions('gymnasium')['gymnasium']
  for text in ('train episode 1', "'gymnasium': '0.9'", f"m': '{installed}'"):
    assert text in str(raised.value)
  assert not list(tmp_path.glob('carracing_rollouts/recorded/1*'))


def test_other_ends_are_refused(log_file, tmp_path):
  def change(header):
    header['episodes'][0]['terminated'] = True

  log = edited(log_file, tmp_path / 'log.npz', change)
  with pytest.raises(errors.DatasetError, match='terminated=False; recorded w'):
    build(tmp_path, log)


def test_attached_log_is_verified(log_file, tmp_path):
  dataset = build(tmp_path, log_file)
  attached = dataset.folder / schema.ACTION_LOG
  content = bytearray(attached.read_bytes())
  content[100] ^= 1
  attached.write_bytes(content)
  with pytest.raises(errors.DatasetError, match='actions.npz is not the file'):
    verification.verify(dataset)
  config = dataset.config
  with pytest.raises(action_log.LogError, match='is not the log that was rep'):
    action_log.of_dataset(attached.parent, config)
  attached.unlink()
  with pytest.raises(action_log.LogError, match='missing; restore it'):
    action_log.of_dataset(attached.parent, config)
  with pytest.raises(errors.DatasetError, match='actions.npz is missing'):
    prepared_dataset.find('carracing_rollouts/recorded', tmp_path)


PERSON = """
import sys
import pygame
from carracing_rollouts import action_log
from tools.driving import recorded_actions
from pathlib import Path

output, num_episodes, *keys_of_jobs = sys.argv[1:]


def run(jobs):
  for job, keys in zip(jobs, keys_of_jobs):
    pygame.init()  # The game closes its window after an episode.
    for name in keys.split('+'):
      key = getattr(pygame, name)
      pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))
    print('driving', job.drives[0].track)
    job()


plan = recorded_actions.Plan(
  (action_log.Driver(name='keyboard'),), None, 1, 'gymnasium', 25
)
recorded_actions.record(plan, int(num_episodes), Path(output), run)
"""


def drive_by_hand(output, num_episodes, *keys_of_episodes):
  arguments = [str(output), str(num_episodes), *keys_of_episodes]
  return subprocess.run(
    [sys.executable, '-c', PERSON, *arguments],
    env={**os.environ, 'SDL_AUDIODRIVER': 'dummy'},
    capture_output=True,
    text=True,
  )


def test_person_at_the_keyboard_drives_stops_and_goes_on(tmp_path):
  def driven(done):
    return [int(track) for track in re.findall('driving (.*)', done.stdout)]

  output = tmp_path / 'log.npz'
  stopped = drive_by_hand(output, 2, 'K_UP+K_LEFT', 'K_ESCAPE')
  assert 'tools.driving.keyboard.Stopped' in stopped.stderr
  assert not output.exists()

  done = drive_by_hand(output, 2, 'K_UP')
  assert done.returncode == 0, done.stderr
  log = action_log.read(output)
  train, validation = log.header.episodes
  # The validation episode came first, and was kept.
  assert (train.split, validation.split) == ('train', 'validation')
  assert driven(stopped) == [validation.track_seed, train.track_seed]
  assert driven(done) == [train.track_seed]
  np.testing.assert_array_equal(log.actions[0], [[0, 1, 0]] * 25)
  np.testing.assert_array_equal(log.actions[1], [[-1, 1, 0]] * 25)
  for logged, actions in zip(log.header.episodes, log.actions):
    assert logged.driver == action_log.Driver(name='keyboard')
    # The game in the window is the one that is replayed.
    assert len(rollout.replay(logged, actions, 'sketched')) == 26

  more = drive_by_hand(output, 3, 'K_RIGHT')
  assert more.returncode == 0, more.stderr
  log = action_log.read(output)
  assert log.header.episodes[::2] == [train, validation]
  # Nobody drives the same again.
  assert driven(more) == [log.header.episodes[1].track_seed]
  np.testing.assert_array_equal(log.actions[1], [[1, 0, 0]] * 25)


def arrays_of(log_file):
  with np.load(log_file) as archive:
    return dict(archive)


def as_bytes(text):
  return np.frombuffer(text.encode(), np.uint8)


def as_header(content):
  return as_bytes(json.dumps(content))


def with_header(arrays, **changes):
  header = json.loads(arrays['header'].tobytes())
  return {**arrays, 'header': as_header({**header, **changes})}


def endless(arrays):
  header = json.loads(arrays['header'].tobytes())
  episode = {**header['episodes'][0], 'num_steps': 1_000_000}
  return {'max_steps': 1_000_000, 'episodes': [episode] * 201}


def with_driver(arrays, **changes):
  header = json.loads(arrays['header'].tobytes())
  header['episodes'][0]['driver'] |= changes
  return {**arrays, 'header': as_header(header)}


def with_interventions(arrays, *interventions, probability=0.1):
  header = json.loads(arrays['header'].tobytes())
  header['episodes'][0]['interventions'] = [*interventions]
  header['episodes'][0]['driver']['interventions'] = probability
  return {**arrays, 'header': as_header(header)}


def with_action(arrays, value):
  action = arrays['action'].copy()
  action[STEPS + 2, 1] = value
  return {**arrays, 'action': action}


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda a: with_header(a, schema_version=3), 'schema_version: .* 2, not 3'),
    (lambda a: with_header(a, seed=-1), 'seed: .* equal to 0, not -1'),
    (lambda a: with_header(a, seed=None), 'seed: version 1 has none, and'),
    (lambda a: with_header(a, schema_version=1), 'seed: version 1 has none'),
    (lambda a: with_header(a, episodes=[]), 'episodes: .*at least 1'),
    (lambda a: with_header(a, max_steps=7), 'episode 0 has 40 steps and'),
    (lambda a: with_header(a, max_steps=90), 'episode 0 has 40 steps and'),
    (lambda a: {**a, 'header': as_bytes('[' * 99_999)}, 'Invalid JSON'),
    (lambda a: {**a, 'more': np.zeros(3)}, 'header and action alone'),
    (lambda a: {**a, 'action': np.zeros((9999, 3))}, 'action.npy is larger'),
    (lambda a: with_header(a, surplus=1), 'surplus'),
    (lambda a: with_header(a, simulator='../x'), 'simulator: a name'),
    (lambda a: {**a, 'header': as_header([1])}, 'bad.npz is damaged'),
    (lambda a: {**a, 'header': a['header'][:-1]}, 'bad.npz is damaged'),
    (lambda a: {**a, 'header': np.zeros(3)}, 'bad.npz is damaged'),
    (lambda a: with_driver(a, name='\x1b[2J'), 'driver.name'),
    (lambda a: with_driver(a, weights_sha256={}), 'weights_sha256.vae'),
    (lambda a: with_driver(a, noise=11), 'driver.noise'),
    (lambda a: with_driver(a, interventions=2), 'driver.interventions'),
    (lambda a: with_interventions(a, [0, 41]), 'outlast the episode'),
    (lambda a: with_interventions(a, [STEPS, 0]), r'interventions\.0'),
    (lambda a: with_interventions(a, [9, 9], [12, 9]), 'they overlap'),
    (lambda a: with_interventions(a, [9, -9]), r'interventions\.0'),
    (lambda a: with_interventions(a, [9, 9], probability=0), 'driver has none'),
    (lambda a: with_interventions(a, [9, 9]), 'episode 0 changes .* at step 9'),
    (lambda a: with_action(a, np.nan), 'episode 1 has .*nan.* at step 2'),
    (lambda a: with_action(a, -0.1), 'episode 1 has the action .* at step 2'),
    (lambda a: {**a, 'action': a['action'][1:]}, r'float32\[159, 3\], not'),
    (lambda a: {**a, 'action': a['action'].astype('>f4')}, '>f4'),
    (lambda a: {'action': a['action']}, 'header and action alone'),
    (lambda a: with_header(a, **endless(a)), 'more than 200,000,000 steps'),
    (lambda a: {**a, 'action': np.array([None])}, 'no action log.*pickle'),
  ],
)
def test_damaged_logs_are_refused(damage, message, log_file, tmp_path):
  np.savez(tmp_path / 'bad.npz', **damage(arrays_of(log_file)))
  with pytest.raises(action_log.LogError, match=message):
    action_log.read(tmp_path / 'bad.npz')


def npy(shape):
  """An array that claims a shape."""
  text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}"
  header = text.encode().ljust(117) + b'\n'
  return b'\x93NUMPY\x01\x00' + len(header).to_bytes(2, 'little') + header


@pytest.mark.parametrize(
  ('action', 'method', 'flag', 'message'),
  [
    (npy('(10000000000000, 3)'), zipfile.ZIP_STORED, 0, 'no action log'),
    (npy('(1180591620717411303424, 3)'), zipfile.ZIP_STORED, 0, 'no action lo'),
    (npy('(('), zipfile.ZIP_STORED, 0, 'no action log'),
    (npy('(40, 3)'), zipfile.ZIP_LZMA, 0, 'oddly compressed'),
    (npy('(40, 3)'), zipfile.ZIP_STORED, 1, 'is encrypted'),
    (bytes(10**9), zipfile.ZIP_DEFLATED, 0, 'action.npy is larger than'),
  ],
)
def test_hostile_archives_are_refused(action, method, flag, message, log_file):
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as archive:
    with zipfile.ZipFile(log_file) as original:
      archive.writestr('header.npy', original.read('header.npy'))
    archive.writestr('action.npy', action, method)
  content = bytearray(file.getvalue())
  # The flags of the last entry of the directory.
  content[content.rindex(b'PK\x01\x02') + 8] |= flag
  with pytest.raises(action_log.LogError, match=message):
    action_log.parse(bytes(content), 'bad')


def test_an_archive_that_lies_about_its_size_takes_no_memory(log_file):
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as archive:
    archive.writestr('action.npy', b'')
    archive.writestr('header.npy', bytes(10**9), zipfile.ZIP_DEFLATED)
  content = bytearray(file.getvalue())
  size = content.rindex(b'PK\x01\x02') + 24  # In the entry of the directory.
  content[size : size + 4] = (1000).to_bytes(4, 'little')
  tracemalloc.start()
  with pytest.raises(action_log.LogError, match='no action log'):
    action_log.parse(bytes(content), 'bad')
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 200e6


def test_a_log_of_other_episodes_than_the_dataset_is_named(log_file, tmp_path):
  dataset = build(tmp_path, log_file)
  train = dataset.splits['train']
  dataset.splits['train'] = train.model_copy(
    update={'num_episodes': train.num_episodes + 1}
  )
  with pytest.raises(errors.DatasetError, match='has 4 train .* tell of 3'):
    who_drove.of_split(dataset, 'train')
  dataset.config['policy'] = 'a b'
  with pytest.raises(errors.DatasetError, match="a policy 'a b', which no"):
    who_drove.of_split(dataset, 'train')


def test_episodes_that_cannot_be_read_are_not_written(log_file, tmp_path):
  log = action_log.read(log_file)
  log.actions[1][3, 0] = np.nan
  with pytest.raises(action_log.LogError, match='episode 1 .* at step 3'):
    action_log.write(tmp_path / 'log.npz', log)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('rows', [0, 1])
def test_actions_of_another_length_are_not_written(rows, log_file, tmp_path):
  log = action_log.read(log_file)
  actions = [log.actions[0][:rows], *log.actions[1:]]
  with pytest.raises(action_log.LogError, match=r'are not \[num_steps, 3\]'):
    action_log.write(tmp_path / 'log.npz', log._replace(actions=actions))


def test_what_others_have_beside_a_log_is_kept(tmp_path):
  thesis = tmp_path / '.log.npz.unfinished' / 'thesis'
  thesis.parent.mkdir()
  thesis.touch()
  recorded_actions.record(make_plan(), 2, tmp_path / 'log.npz', run_all)
  assert [x.name for x in thesis.parent.iterdir()] == ['thesis']


def test_other_files_are_refused(log_file, tmp_path):
  content = log_file.read_bytes()
  array = tmp_path / 'array.npy'
  np.save(array, np.zeros(3))
  pickled = tmp_path / 'pickled'
  np.array([{}], object).dump(pickled)
  for bad in (
    b'',
    b'text',
    b'\x80\x04N.',  # A pickle.
    content[:-200],
    content[: len(content) // 2],
    content[:300] + bytes(64) + content[364:],
    array.read_bytes(),
    pickled.read_bytes(),
  ):
    with pytest.raises(action_log.LogError, match='^bad is'):
      action_log.parse(bad, 'bad')


@pytest.mark.parametrize(
  ('keys', 'message'),
  [
    ({}, 'actions: there is no action log .*tools.record'),
    ({'actions': ''}, 'actions: the policy recorded needs an action log'),
    ({'actions': '~nosuchuser/x'}, 'home directory'),
    ({'num_episodes': 3}, 'num_episodes: .*leave this key out'),
    ({'interventions': 0.1}, 'interventions: .*those of its log, so leave'),
    (
      {'policy': 'uniform', 'num_episodes': 0},
      'num_episodes: .*least 2, not 0',
    ),
    ({'max_steps': 30}, f'max_steps={STEPS}, not 30; leave this key out'),
    ({'actions_sha256': '0' * 64}, "unknown config key 'actions_sha256'"),
    ({'actions': 3}, 'actions: '),
  ],
)
def test_bad_configs_are_refused(keys, message, log_file, tmp_path):
  existing = {'actions': str(log_file)} if keys else {'actions': '/none/x.npz'}
  config = {'policy': 'recorded', **existing, **keys}
  with pytest.raises(errors.UserError, match=message):
    builder_lib.RolloutsConfig(name='bad', **config)


def test_log_without_validation_episodes_is_refused(log_file, tmp_path):
  def change(header):
    for episode in header['episodes']:
      episode['split'] = 'train'

  log = edited(log_file, tmp_path / 'log.npz', change)
  with pytest.raises(errors.DatasetError, match='has no validation episodes'):
    builder_lib.RolloutsConfig(
      name='x', policy='recorded', actions=str(log), max_steps=STEPS
    )


class Listener:
  """An agent that does nothing, and keeps the noise that is added."""

  def __init__(self):
    self.heard = []

  def initial_carry(self, seeds):
    return np.zeros(len(seeds))

  def __call__(self, observation, carry, imposed, change):
    self.heard.append(change(np.zeros((len(observation), 3))))
    return self.heard[-1], carry


def test_noise_comes_in_spells():
  def listen(kinds, seeds):
    described = [
      action_log.Driver(name='agent', noise=level, noise_share=share)
      for level, share in kinds
    ]
    listener = Listener()
    noisy = drivers.NoisyAgent(listener, described)
    carry = noisy.initial_carry([np.random.SeedSequence(s) for s in seeds])
    for _ in range(4000):
      _, carry = noisy(np.zeros((len(seeds), 64, 64, 3), np.uint8), carry)
    return np.stack(listener.heard)

  heard = listen([(0.5, 0.25), (0.5, 1.0), (0.0, 1.0)], [1, 2, 3])
  spells = heard[:, 0].reshape(200, 20, 3).any(2)
  assert (spells.all(1) | ~spells.any(1)).all()
  assert 0.15 < spells.mean() < 0.35
  assert heard[:, 1].all() and not heard[:, 2].any()
  np.testing.assert_allclose(heard[:, 1].std(), 0.5, atol=0.05)
  alone = listen([(0.5, 0.25)], [1])
  np.testing.assert_array_equal(alone[:, 0], heard[:, 0])


def test_log_and_dataset_tell_interventions(agent_folder, command, tmp_path):
  output = tmp_path / 'disturbed.npz'
  flags = '--noise=0', '--interventions=0,0.1'
  done = record_command(command, agent_folder, output, *flags)
  assert done.status == 0, done.stderr
  assert 'agent, interventions 0.1: 1 episode' in done.stdout
  log = action_log.read(output)
  assert log.header.seed == 5
  found = [
    (x.driver.interventions, len(x.interventions) > 0)
    for x in log.header.episodes
  ]
  assert found == [(0, False), (0.1, True), (0, False), (0, False)]
  dataset = build(tmp_path, output)
  plain, disturbed = loader.episodes(str(dataset.folder))[:2]
  assert not plain.is_intervention.any()
  logged = log.header.episodes[1]
  np.testing.assert_array_equal(
    disturbed.is_intervention[:-1], logged.is_intervention()
  )
  first, count = logged.interventions[0]
  assert disturbed.is_intervention[first : first + count].all()
  origins = who_drove.of_split(dataset, 'train')
  assert origins[1].driver.title == 'agent, interventions 0.1'
  # What the agent does between them follows from what was imposed.
  [played] = rollout.episodes(
    environment.Environments([logged.track_seed], STEPS),
    agent.load(agent_folder),
    [rollout.episode_seeds(5, 'train', 1)[1]],
    [0.1],
  )
  np.testing.assert_array_equal(played.action[:-1], log.actions[1])


def test_log_says_that_noise_came_in_spells(agent_folder, command, tmp_path):
  output = tmp_path / 'spells.npz'
  flags = '--noise=0.5', '--noise_share=0.25'
  done = record_command(command, agent_folder, output, *flags)
  assert done.status == 0, done.stderr
  assert 'agent, noise 0.5 in 25 % of the steps: 4 episodes' in done.stdout
  shares = {
    e.driver.noise_share for e in action_log.read(output).header.episodes
  }
  assert shares == {0.25}
  other = record_command(command, agent_folder, output, '--noise=0.5')
  assert 'holds another log' in other.stderr
