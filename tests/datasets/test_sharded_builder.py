"""Builds give the same bytes, wherever they run and after any interruption."""

import fcntl
import filecmp
import functools
import json
import multiprocessing
import operator
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys

from apache_beam.options import pipeline_options
from carracing_data import beam
from carracing_data import errors
from carracing_data import json_documents
from carracing_data import metadata
from carracing_data import prepared_dataset
from carracing_data import processes
from carracing_data import shards
from carracing_rollouts import action_log
from carracing_rollouts import carracing_rollouts_dataset_builder as builder_lib
from carracing_rollouts import environment
from conftest import made_once
from conftest import PROJECT
from conftest import VERSION
import psutil
import pytest
import tensorflow_datasets as tfds
from tools.driving import recorded_actions

# Both kinds of episodes: 7 + 1 that a policy drives, 3 + 1 that are replayed.
CONFIG = {
  'name': 'faults',
  'num_episodes': 8,
  'max_steps': 90,
  'simulator': 'sketched',
  'actions': '',  # The log of the fixture below.
}
STOCK = {'simulator': 'gymnasium'}  # Slow enough for a signal to come in time.
DATASETS = PROJECT / 'datasets'
TFDS = Path(sys.executable).parent / 'tfds'


def arguments_of_build(data_dir, **config):
  return [
    *('build', 'carracing_rollouts', f'--data_dir={data_dir}'),
    f'--config={json.dumps(CONFIG | config)}',
  ]


def start_build(data_dir, **config):
  """Starts a build as a user would."""
  return subprocess.Popen(
    [TFDS, *arguments_of_build(data_dir, **config)],
    cwd=DATASETS,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def make_builder(data_dir, num_workers=1, **config):
  return builder_lib.Builder(
    data_dir=data_dir,
    config=builder_lib.RolloutsConfig(**CONFIG | config),
    num_workers=num_workers,
  )


def build(data_dir, **config):
  make_builder(data_dir, **config).download_and_prepare()


def folder(data_dir):
  return Path(data_dir, 'carracing_rollouts', CONFIG['name'])


def records_of_finished_shards(data_dir):
  return list(folder(data_dir).glob('.staging-*/*.record.json'))


def shard_of(record):
  return record.with_name(record.name.removesuffix('.record.json'))


def assert_same_bytes(one, other):
  one, other = (folder(data_dir) / VERSION for data_dir in (one, other))
  names = sorted(path.name for path in one.iterdir())
  assert names == sorted(path.name for path in other.iterdir())
  same, different, unreadable = filecmp.cmpfiles(one, other, names, False)
  assert (sorted(same), different, unreadable) == (names, [], [])


@pytest.fixture(scope='module', autouse=True)
def _log(tmp_path_factory):
  def make(folder):
    folder.mkdir()
    drivers = (action_log.Driver(name='brownian'),)
    plan = recorded_actions.Plan(
      drivers, None, 0, 'sketched', CONFIG['max_steps']
    )
    recorded_actions.record(
      plan, 4, folder / 'log.npz', lambda jobs: [job() for job in jobs]
    )

  folder = made_once(tmp_path_factory, 'log_of_faults', make)
  CONFIG['actions'] = str(folder / 'log.npz')


def uninterrupted(tmp_path_factory, **config):
  """Returns the data directory of an uninterrupted build on all cores."""
  simulator = (CONFIG | config)['simulator']
  return made_once(
    tmp_path_factory,
    f'uninterrupted_build_{simulator}',
    lambda folder: build(folder, num_workers=None, **config),
  )


@pytest.fixture(scope='module')
def expected(tmp_path_factory):
  return uninterrupted(tmp_path_factory)


@pytest.fixture(scope='module')
def expected_stock(tmp_path_factory):
  return uninterrupted(tmp_path_factory, **STOCK)


def test_one_worker_writes_the_same_bytes(expected, tmp_path):
  build(tmp_path)
  assert_same_bytes(tmp_path, expected)


def test_beam_writes_the_same_bytes(command, expected, tmp_path):
  tfds_build(
    command,
    tmp_path,
    'runner=DirectRunner,direct_running_mode=multi_processing'
    ',direct_num_workers=2',
  )
  assert_same_bytes(tmp_path, expected)


def test_error_of_a_beam_worker_is_that_of_the_build():
  config = tfds.download.DownloadConfig(
    beam_runner='DirectRunner',
    beam_options=pipeline_options.PipelineOptions(
      direct_running_mode='multi_processing', direct_num_workers=2
    ),
  )
  with pytest.raises(
    errors.UserError, match='^.a b. is not a dataset name; use '
  ):
    beam.run([functools.partial(prepared_dataset.find, 'a b')], config)


def test_dask_cluster_writes_the_same_bytes(command, expected, tmp_path):
  dask = [TFDS.with_name('dask')]
  file = tmp_path / 'scheduler.json'
  local = ['--scheduler-file', str(file), '--no-dashboard']
  scheduler = subprocess.Popen(
    [*dask, 'scheduler', '--host', '127.0.0.1', '--port', '0', *local],
    stderr=subprocess.DEVNULL,
  )
  workers = subprocess.Popen(
    [*dask, 'worker', '--nworkers', '2', '--nthreads', '1', *local],
    stderr=subprocess.DEVNULL,
    cwd=tmp_path,
  )
  try:
    wait_until(file.exists, scheduler)
    address = json.loads(file.read_text())['address']
    tfds_build(
      command,
      tmp_path,
      'runner=apache_beam.runners.dask.dask_runner.DaskRunner'
      f',dask_client_address={address},dask_npartitions=4',
    )
  finally:
    for process in workers, scheduler:
      process.terminate()
      process.wait()
  assert_same_bytes(tmp_path, expected)


def tfds_build(command, data_dir, beam_pipeline_options):
  options = f'--beam_pipeline_options={beam_pipeline_options}'
  arguments = arguments_of_build(data_dir)
  done = command('tfds', *arguments, options, cwd=DATASETS)
  assert done.status == 0, done.stderr


def wait_until(condition, process):
  while not condition():
    try:
      assert process.wait(timeout=0.02) is None, 'ended too early'
    except subprocess.TimeoutExpired:
      pass


@pytest.mark.parametrize(
  ('victim', 'number'),
  [
    ('main', signal.SIGKILL),
    ('main', signal.SIGINT),
    ('main', signal.SIGTERM),
    ('worker', signal.SIGKILL),
  ],
)
def test_killed_build_continues_to_the_same_bytes(
  victim, number, command, expected_stock, tmp_path
):
  if number == signal.SIGINT:
    process = start_build(tmp_path, **STOCK)
  else:
    arguments = arguments_of_build(tmp_path, **STOCK)
    process = command.start('tfds', *arguments, cwd=DATASETS)
  wait_until(lambda: records_of_finished_shards(tmp_path), process)
  family = psutil.Process(process.pid).children(recursive=True)
  if victim == 'main':
    process.send_signal(number)
  else:
    workers = [p for p in family if 'spawn_main' in ' '.join(p.cmdline())]
    workers[0].send_signal(number)
  _, stderr = process.communicate()

  assert process.returncode != 0
  if victim == 'worker':
    assert stderr.splitlines()[-1].startswith('Error: a worker process was')
  psutil.wait_procs(family, timeout=30)
  assert not [p for p in family if p.is_running()]
  assert not (folder(tmp_path) / VERSION).exists()
  finished = {
    record.name: shard_of(record).stat().st_ino
    for record in records_of_finished_shards(tmp_path)
  }
  assert finished

  build(tmp_path, **STOCK)

  assert_same_bytes(tmp_path, expected_stock)
  assert not list(folder(tmp_path).glob('.staging-*'))
  assert not list(folder(tmp_path).glob('incomplete.*'))
  kept = {path.stat().st_ino for path in (folder(tmp_path) / VERSION).iterdir()}
  assert kept >= set(finished.values())  # They were not written again.


def interrupted_after_one_shard(data_dir):
  """Leaves one finished shard in the staging folder."""
  folder(data_dir).mkdir(parents=True)
  make_builder(data_dir)._jobs()['train'][0]()
  [record] = records_of_finished_shards(data_dir)
  return record


def test_interrupted_build_leaves_no_dataset(tmp_path):
  interrupted_after_one_shard(tmp_path)
  with pytest.raises(errors.DatasetError, match='no prepared dataset'):
    prepared_dataset.find(f'carracing_rollouts/{CONFIG["name"]}', tmp_path)


@pytest.mark.parametrize('change', ['config', 'code'])
def test_shards_of_other_configs_or_code_are_not_continued(change, tmp_path):
  record = interrupted_after_one_shard(tmp_path)
  shard_of(record).write_text('If this were taken, it would show.')
  for data_dir in tmp_path / 'fresh', tmp_path:
    builder = make_builder(data_dir, seed=int(change == 'config'))
    if change == 'code':
      builder.CODE = (*builder.CODE, json)
    builder.download_and_prepare()
  assert_same_bytes(tmp_path, tmp_path / 'fresh')


def test_overwrite_builds_again(command, expected, tmp_path):
  build(tmp_path, seed=5)
  arguments = arguments_of_build(tmp_path)
  done = command('tfds', *arguments, '--overwrite', cwd=DATASETS)
  assert done.status == 0, done.stderr
  assert_same_bytes(tmp_path, expected)


@pytest.mark.parametrize('failure', ['lock', 'option', 'interruption'])
def test_overwriting_keeps_the_old_dataset_until_the_new_one_is_complete(
  failure, command, expected, tmp_path, monkeypatch
):
  shutil.copytree(folder(expected) / VERSION, folder(tmp_path) / VERSION)
  arguments = [*arguments_of_build(tmp_path), '--overwrite']
  if failure == 'lock':
    with (folder(tmp_path) / '.lock').open('w') as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      done = command('tfds', *arguments, cwd=DATASETS)
    assert 'another process is writing' in done.stderr
  elif failure == 'option':
    done = command('tfds', *arguments, '--num_shards=3', cwd=DATASETS)
    assert 'num_shards is not supported' in done.stderr
  else:
    monkeypatch.setattr(shards, 'collect', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      make_builder(tmp_path)._build(
        overwrite=True,
        download_config=tfds.download.DownloadConfig(
          download_mode=tfds.GenerateMode.REUSE_CACHE_IF_EXISTS
        ),
      )
  assert_same_bytes(tmp_path, expected)


@pytest.mark.parametrize('flags', [[], ['--overwrite']], ids=str)
def test_build_tells_of_a_copy_with_another_name_or_damage(
  flags, command, expected, tmp_path
):
  target = folder(tmp_path) / VERSION
  for change, message in (
    ('name', f' as carracing_rollouts/a:{VERSION}, not with'),
    ('document', 'dataset_info.json is damaged'),
  ):
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder(expected) / VERSION, target)
    if change == 'name':
      path = target / 'metadata.json'
      content = json.loads(path.read_text())
      content['name'] = content['name'].replace(CONFIG['name'], 'a')
      json_documents.write(path, json_documents.sealed(content, metadata.SEAL))
    else:
      (target / 'dataset_info.json').write_text('{')
    done = command('tfds', *arguments_of_build(tmp_path), *flags, cwd=DATASETS)
    if flags and change == 'name':
      assert done.status == 0, done.stderr
      assert_same_bytes(tmp_path, expected)
    else:
      assert done.status == 1
      assert message in done.stderr.splitlines()[-1]
      assert 'Traceback' not in done.stderr


def test_builds_remove_only_what_builds_have_made(expected, tmp_path):
  foreign = folder(tmp_path) / f'incomplete.backup_{VERSION}'
  foreign.mkdir(parents=True)
  (folder(tmp_path) / '.staging-notes').write_text('notes')
  (folder(tmp_path) / '.staging-mine').mkdir()
  link = folder(tmp_path) / f'incomplete.ABCDEF_{VERSION}'
  link.symlink_to(foreign)
  killed = folder(tmp_path) / f'incomplete.GHIJKL_.building-{VERSION}'
  killed.mkdir()
  before = {*folder(tmp_path).iterdir()} - {killed}
  build(tmp_path)
  new = {folder(tmp_path) / name for name in ('.lock', VERSION)}
  assert {*folder(tmp_path).iterdir()} == before | new
  assert_same_bytes(tmp_path, expected)


def test_two_builds_of_one_dataset_at_once_are_refused(tmp_path):
  folder(tmp_path).mkdir(parents=True)
  with (folder(tmp_path) / '.lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(errors.UserError, match='another process is writing'):
      build(tmp_path)


def test_prepared_dataset_is_reused_without_writing(expected):
  with (folder(expected) / '.lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    before = sorted(folder(expected).rglob('*'))
    build(expected)
  assert sorted(folder(expected).rglob('*')) == before


def test_folder_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / 'carracing_rollouts').write_text('a file')
  with pytest.raises(errors.UserError, match='cannot write .*tmp'):
    build(tmp_path)


def test_full_disk_is_one_clear_error_and_leaves_nothing(command, tmp_path):
  arguments = arguments_of_build(tmp_path, **STOCK)
  # Less than the size of a shard of 91 steps.
  done = command('tfds', *arguments, cwd=DATASETS, file_bytes=50_000)
  assert done.status == 1
  assert done.stderr.splitlines()[-1].startswith('Error: cannot write ')
  assert 'File too large' in done.stderr.splitlines()[-1]
  assert 'Traceback' not in done.stderr
  left = [path for path in folder(tmp_path).rglob('*') if path.is_file()]
  assert sorted(path.name for path in left) == ['.lock', 'depends_on.json']


@pytest.mark.parametrize('missing', ['everything', 'a shard'])
def test_incomplete_folder_is_built_again(missing, command, expected, tmp_path):
  target = folder(tmp_path) / VERSION
  if missing == 'everything':
    target.mkdir(parents=True)
  else:
    shutil.copytree(folder(expected) / VERSION, target)
    [*_, shard] = sorted(target.glob('*.array_record-*'))
    shard.unlink()
  done = command('tfds', *arguments_of_build(tmp_path), cwd=DATASETS)
  assert done.status == 0, done.stderr
  assert_same_bytes(tmp_path, expected)
  aside = folder(tmp_path) / f'incomplete_{VERSION}'
  assert aside.exists() == (missing != 'everything')
  assert (str(aside) in done.stdout) == (missing != 'everything')


def test_shards_of_an_earlier_build_are_told_of_and_kept_until_the_end(
  tmp_path, caplog
):
  record = interrupted_after_one_shard(tmp_path)
  earlier = record.parent
  make_builder(tmp_path, seed=1)._jobs()['train'][0]()  # Another interruption.
  assert f'1 finished shards in {earlier}' in caplog.text
  assert 'differs in config' in caplog.text
  assert record.exists() and shard_of(record).exists()
  build(tmp_path, seed=1)
  assert not earlier.exists()


def test_staged_shard_that_was_damaged_is_written_again(expected, tmp_path):
  shard = shard_of(interrupted_after_one_shard(tmp_path))
  shard.write_bytes(shard.read_bytes()[:-100])
  with pytest.raises(
    errors.DatasetError, match='was damaged after it was writ'
  ):
    build(tmp_path)
  assert not (folder(tmp_path) / VERSION).exists()
  build(tmp_path)
  assert_same_bytes(tmp_path, expected)


@pytest.mark.parametrize(
  ('change', 'sealed'),
  [
    ({'num_examples': 1}, False),
    ({'episodes': []}, False),
    ({'name': 'another'}, True),
    ({'record_digests': ['zz'] * 3}, True),
    ({'episodes': [[10**30, 0.0, False]]}, False),
    ({'episodes': [[91, 1e300, False]]}, False),
    ({'episodes': [[91, float('nan'), False]]}, False),
  ],
  ids=str,
)
def test_edited_record_of_a_staged_shard_is_as_none(
  change, sealed, expected, tmp_path
):
  record = interrupted_after_one_shard(tmp_path)
  content = json.loads(record.read_text()) | change
  if sealed:
    content = json_documents.sealed(content, 'sha256')
  record.write_text(json.dumps(content))
  os.utime(shard_of(record), (0, 0))
  build(tmp_path)
  files = (folder(tmp_path) / VERSION).iterdir()
  assert all(file.stat().st_mtime for file in files)  # It is not that one.
  assert_same_bytes(tmp_path, expected)


def test_staged_shard_of_another_name_is_written_again(expected, tmp_path):
  record = interrupted_after_one_shard(tmp_path)
  for source in record, shard_of(record):
    other = source.name.replace('00000', '00001')
    shutil.copyfile(source, source.with_name(other))
  build(tmp_path)
  assert_same_bytes(tmp_path, expected)


def test_a_dataset_that_was_to_be_replaced_is_put_back(expected, tmp_path):
  shutil.copytree(folder(expected), folder(tmp_path))
  place = folder(tmp_path) / VERSION
  before = place.stat().st_ino
  # As a kill between the two renames leaves it.
  place.rename(place.with_name(f'.replaced-{VERSION}'))
  build(tmp_path)
  assert place.stat().st_ino == before
  assert_same_bytes(tmp_path, expected)


def test_staging_folder_that_is_a_link_is_refused(tmp_path):
  staging = interrupted_after_one_shard(tmp_path / 'one').parent
  link = folder(tmp_path) / staging.name
  link.parent.mkdir(parents=True)
  (tmp_path / 'other').mkdir()
  link.symlink_to(tmp_path / 'other')
  with pytest.raises(errors.UserError, match='it is a link to'):
    build(tmp_path)
  assert not list((tmp_path / 'other').iterdir())


def test_damaged_record_of_a_staged_shard_is_as_none(expected, tmp_path):
  interrupted_after_one_shard(tmp_path).write_text('{')
  build(tmp_path)
  assert_same_bytes(tmp_path, expected)


def test_dataset_that_another_process_finished_is_not_built_again(
  expected, tmp_path
):
  builder = make_builder(tmp_path)
  # The other process finishes after this one has looked.
  shutil.copytree(folder(expected), folder(tmp_path))
  builder._build(overwrite=False)
  names = sorted(path.name for path in folder(tmp_path).iterdir())
  assert names == ['.lock', VERSION]
  assert builder.info.splits['train'].num_examples > 0


def test_code_of_every_simulator_is_part_of_what_shards_depend_on():
  for environments in environment.SIMULATORS.values():
    assert sys.modules[environments.GAME.__module__] in builder_lib.Builder.CODE


@pytest.mark.parametrize(
  ('num_episodes', 'episode_bytes', 'num_shards'),
  [
    (3, 1_500_000, 3),
    (1000, 1_500_000, 256),
    (1_000_000, 1_500_000, 1399),  # 715 episodes, 1 GiB.
    (10, 2**31, 10),  # No shard is smaller than an episode.
  ],
)
def test_shards_are_many_and_small(num_episodes, episode_bytes, num_shards):
  found = shards.episodes_of_shards(num_episodes, episode_bytes)
  assert len(found) == num_shards
  ids = [i for of_shard in found for i in of_shard]
  assert ids == list(range(num_episodes))
  sizes = {len(of_shard) for of_shard in found}
  assert max(sizes) - min(sizes) <= 1
  assert max(sizes) * episode_bytes <= max(2**30, episode_bytes)


def test_number_of_shards_is_part_of_what_shards_depend_on(tmp_path):
  config = builder_lib.RolloutsConfig(**CONFIG)
  builder = builder_lib.Builder(data_dir=tmp_path, config=config)
  one, other = (builder._depends_on({'train': n}) for n in (7, 8))
  assert one != other
  assert one == builder._depends_on({'train': 7})


def test_failing_jobs_leave_other_children_alone():
  spawn = multiprocessing.get_context('spawn')
  end = spawn.Event()
  bystander = spawn.Process(target=end.wait)
  bystander.start()
  jobs = [functools.partial(operator.truediv, 1, 0)] * 2
  with pytest.raises(ZeroDivisionError):
    processes.run_locally(jobs, num_workers=2)
  assert bystander.is_alive()
  end.set()
  bystander.join()
  assert bystander.exitcode == 0
