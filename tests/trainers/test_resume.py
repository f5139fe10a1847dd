"""Interrupted runs continue as if they had never been interrupted."""

import json
from pathlib import Path
import re
import shutil
import signal
import socket
import subprocess
import sys

from carracing_data import errors
from carracing_data import files
from conftest import interrupt
from conftest import logged_metrics
from conftest import made_once
from conftest import tiny_vae_config
import numpy as np
import pytest
import safetensors.numpy
from tensorboard.backend.event_processing import plugin_event_accumulator
from trainers import run_documents
from trainers import train_vae

STEPS = {'train_vae': 24, 'train_mdn_rnn': 80}  # Long enough to send a signal.
LAST = STEPS['train_mdn_rnn']
BEFORE_LAST = LAST * 3 // 4  # Its second-to-last checkpoint.
FLAGS = {
  'train_vae': {
    'dataset': 'carracing_rollouts/tiny',
    'batch_size': 16,
    'eval_frames': 40,
  },
  'train_mdn_rnn': {
    'dataset': 'carracing_latents/tiny',
    'batch_size': 4,
    'window_steps': 24,
  },
}


def arguments_of(trainer, data_dir, workdir):
  steps = STEPS[trainer]
  config = {
    **FLAGS[trainer],
    'num_steps': steps,
    'log_every_steps': 1,
    'eval_every_steps': steps // 4,
    'checkpoint_every_steps': steps // 4,
  }
  return f'trainers.{trainer}', [
    f'--workdir={workdir}',
    f'--data_dir={data_dir}',
    *(f'--config.{key}={value}' for key, value in config.items()),
  ]


def assert_equal_runs(found, expected):
  name = Path('weights/model.safetensors')
  a = safetensors.numpy.load_file(found / name)
  b = safetensors.numpy.load_file(expected / name)
  assert a.keys() == b.keys()
  for key, value in b.items():
    np.testing.assert_array_equal(a[key], value, err_msg=key)
  assert logged_metrics(found) == logged_metrics(expected)
  # TensorBoard shows no step twice.
  events = plugin_event_accumulator.EventAccumulator(
    str(found), tensor_size_guidance={'scalars': 0}
  ).Reload()
  curve = run_documents.read_curves(found)['train/loss']
  assert [x.step for x in events.Tensors('train/loss')] == [*curve]
  metrics = [
    json.loads((run / 'metrics.json').read_text()) for run in (found, expected)
  ]
  assert metrics[0] == metrics[1]


def assert_close(found, expected):
  """Compares metrics up to the rounding of sums in a different order."""
  a, b = (
    json.loads((run / 'metrics.json').read_text())['validation']
    for run in (found, expected)
  )
  assert a == pytest.approx(b, rel=1e-4)


@pytest.fixture(scope='module')
def uninterrupted(command, world, tmp_path_factory):
  def make(folder):
    for trainer in FLAGS:
      workdir = folder / trainer
      module, arguments = arguments_of(trainer, world.data_dir, workdir)
      done = command(module, *arguments)
      assert done.status == 0, done.stderr

  folder = made_once(tmp_path_factory, 'uninterrupted', make)
  return {trainer: folder / trainer for trainer in FLAGS}


@pytest.mark.parametrize(
  ('trainer', 'number', 'status'),
  [
    ('train_vae', signal.SIGKILL, -signal.SIGKILL),
    ('train_mdn_rnn', signal.SIGTERM, 128 + signal.SIGTERM),
    ('train_mdn_rnn', signal.SIGINT, 128 + signal.SIGINT),
  ],
)
def test_stopped_run_equals_uninterrupted_run(
  trainer, number, status, command, world, uninterrupted, tmp_path
):
  workdir = tmp_path / trainer
  module, arguments = arguments_of(trainer, world.data_dir, workdir)
  if number == signal.SIGKILL:
    # As a user starts it.
    process = subprocess.Popen(
      [sys.executable, '-m', module, *arguments],
      stderr=subprocess.PIPE,
      text=True,
    )
  else:
    process = command.start(module, *arguments)
  step = STEPS[trainer] // 2
  returncode, said = interrupt(process, number, workdir, step)
  assert returncode == status, said
  done = command(module, *arguments)
  assert done.status == 0, done.stderr
  assert 'Continuing from step' in done.stderr
  assert_equal_runs(workdir, uninterrupted[trainer])


@pytest.fixture
def interrupted(uninterrupted, tmp_path):
  """A copy of a run with its two newest checkpoints, without its results."""
  workdir = tmp_path / 'train_mdn_rnn'
  shutil.copytree(uninterrupted['train_mdn_rnn'], workdir)
  shutil.rmtree(workdir / 'weights')
  (workdir / 'metrics.json').unlink()
  return workdir


def run(command, world, workdir, *flags, **how):
  module, arguments = arguments_of('train_mdn_rnn', world.data_dir, workdir)
  return command(module, *arguments, *flags, **how)


def largest_file(checkpoint):
  files = (path for path in checkpoint.rglob('*') if path.is_file())
  return max(files, key=lambda path: path.stat().st_size)


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def cut(path):
  path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
  ('damage', 'reason'),
  [
    (lambda checkpoint: flip(largest_file(checkpoint)), 'has changed'),
    (lambda checkpoint: cut(largest_file(checkpoint)), 'has the wrong size'),
    (lambda checkpoint: largest_file(checkpoint).unlink(), 'is missing'),
    (lambda checkpoint: cut(checkpoint / 'record.json'), 'Invalid JSON'),
    (
      lambda checkpoint: (
        shutil.rmtree(checkpoint),
        shutil.copytree(checkpoint.with_name(str(BEFORE_LAST)), checkpoint),
      ),
      f'it was saved after step {BEFORE_LAST}',
    ),
  ],
)
def test_damaged_checkpoint_is_put_aside_for_an_older_one(
  damage, reason, command, world, uninterrupted, interrupted
):
  (interrupted / f'damaged_checkpoint_{LAST}').mkdir()  # From earlier damage.
  damage(interrupted / 'checkpoints' / str(LAST))
  done = run(command, world, interrupted)
  assert done.status == 0, done.stderr
  assert f'checkpoint of step {LAST} is damaged' in done.stderr
  assert reason in done.stderr
  assert (interrupted / f'damaged_checkpoint_{LAST}_2' / 'state').exists()
  assert f'Continuing from step {BEFORE_LAST}' in done.stderr
  assert_equal_runs(interrupted, uninterrupted['train_mdn_rnn'])


def test_checkpoint_that_was_not_finished_is_not_used(
  command, world, uninterrupted, interrupted
):
  (interrupted / 'checkpoints' / str(LAST) / 'record.json').unlink()
  done = run(command, world, interrupted)
  assert f'checkpoint of step {LAST} is unfinished' in done.stderr
  assert f'Continuing from step {BEFORE_LAST}' in done.stderr
  assert_equal_runs(interrupted, uninterrupted['train_mdn_rnn'])


def test_numbered_folder_of_a_user_is_not_deleted(
  command, world, uninterrupted, interrupted
):
  theirs = interrupted / 'checkpoints' / '1'
  theirs.mkdir()
  (theirs / 'thesis.txt').write_text('a thesis')
  shutil.rmtree(interrupted / 'checkpoints' / str(LAST))
  done = run(command, world, interrupted)
  assert 'checkpoint of step 1 is unfinished' in done.stderr
  assert f'Continuing from step {BEFORE_LAST}' in done.stderr
  assert (interrupted / 'unfinished_checkpoint_1' / 'thesis.txt').exists()
  assert_equal_runs(interrupted, uninterrupted['train_mdn_rnn'])


def test_checkpoints_of_earlier_code_are_continued(world, extensible, tmp_path):
  config = extensible
  for path in (tmp_path / 'checkpoints').glob('*/record.json'):
    record = json.loads(path.read_text())
    for key in 'step', 'config', 'sources':
      del record[key]
    path.write_text(json.dumps(record))
  config.num_steps = 7
  train_vae.train(config, tmp_path, str(world.data_dir))
  assert json.loads((tmp_path / 'metrics.json').read_text())['num_steps'] == 7


def snapshot(folder):
  return {
    path.relative_to(folder): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file() and path.name not in ('run.json', 'parameters.txt')
  }


def forget_both(checkpoints):
  for checkpoint in checkpoints.iterdir():
    (checkpoint / 'record.json').unlink()


def lose_run_document(checkpoints):
  (checkpoints.parent / 'run.json').unlink()


def lose_config_document(checkpoints):
  (checkpoints.parent / 'config.json').unlink()


def make_file_unreadable(checkpoints):
  path = largest_file(checkpoints / str(LAST))
  path.unlink()
  path.symlink_to(path)  # A loop: the name exists, but no file.


def damage_both(checkpoints):
  for checkpoint in checkpoints.iterdir():
    flip(largest_file(checkpoint))


def pretend_two_processes(checkpoints):
  path = checkpoints / str(LAST) / 'record.json'
  record = json.loads(path.read_text())
  path.write_text(json.dumps({**record, 'processes': 2}))


def pretend_another_model(checkpoints):
  path = checkpoints / str(LAST) / 'record.json'
  record = json.loads(path.read_text())
  [name] = (
    n
    for n in record['structure']
    if 'params' in n
    and 'bias' in n
    and 'mixture' in n
    and 'opt_state' not in n
    and 'best' not in n
  )
  record['structure'][name] = 'float32[7]'
  record['structure']["['state']['collected'].accuracy.total"] = 'float32[]'
  path.write_text(json.dumps(record))


def pretend_older_code(checkpoints):
  path = checkpoints / str(LAST) / 'record.json'
  record = json.loads(path.read_text())
  record['structure'] = {
    name: shape
    for name, shape in record['structure'].items()
    if 'best_params' not in name
  }
  path.write_text(json.dumps(record))


def swap_for_another_seed(checkpoints):
  # As if the whole folder had been copied from that run.
  for path in checkpoints.glob('*/record.json'):
    record = json.loads(path.read_text())
    record['config']['seed'] = 1
    path.write_text(json.dumps(record))


def swap_for_other_data(checkpoints):
  path = checkpoints / str(LAST) / 'record.json'
  record = json.loads(path.read_text())
  record['sources']['dataset']['sha256']['train'] = '0' * 64
  path.write_text(json.dumps(record))


def link_checkpoint(checkpoints):
  moved = (checkpoints / str(LAST)).rename(checkpoints.parent / 'moved')
  (checkpoints / str(LAST)).symlink_to(moved)


def name_another_file(checkpoints):
  for path in checkpoints.glob('*/record.json'):
    record = json.loads(path.read_text())
    record['files']['/dev/zero'] = {'num_bytes': 0, 'sha256': '0' * 64}
    path.write_text(json.dumps(record))


def link_pictures(checkpoints):
  (checkpoints.parent / 'elsewhere').mkdir()
  (checkpoints.parent / 'pictures').symlink_to('elsewhere')


def make_unreadable(checkpoints):
  # Permissions do not stop root from reading.
  path = checkpoints / str(LAST) / 'record.json'
  path.unlink()
  path.mkdir()


def damage_metrics(checkpoints):
  (checkpoints.parent / 'metrics.jsonl').write_text('{"train/loss": 1}\n')


@pytest.mark.parametrize(
  ('trouble', 'message'),
  [
    (damage_metrics, 'metrics.jsonl, line 1, is damaged: it has no step; dele'),
    (damage_both, 'no checkpoint .* is good .*delete that folder'),
    (pretend_two_processes, 'was saved by 2 processes.* continued by 1'),
    (
      pretend_another_model,
      r"different model .*bias.* is 'float32\[7\]' there and",
    ),
    (pretend_older_code, 'an older version of this project; check that out'),
    (swap_for_another_seed, 'saved by another run .*seed is 1 there and 0 he'),
    (swap_for_other_data, 'saved by another run .*dataset sha256 is'),
    (link_checkpoint, f'checkpoints/{LAST}: it is a link to .*moved; delete'),
    (name_another_file, 'no checkpoint .* is good .*files./dev/zero'),
    (link_pictures, 'pictures: it is a link to elsewhere; delete the link'),
    (make_unreadable, 'cannot read .*record.json'),
    (make_file_unreadable, 'cannot use .*symbolic links'),
    (forget_both, 'no checkpoint .* is good .*written last'),
    (lose_run_document, 'run.json is missing, so the origin'),
    (lose_config_document, 'config.json is missing, so the origin'),
  ],
)
def test_what_is_no_damage_stops_the_run_and_touches_nothing(
  trouble, message, command, world, interrupted
):
  trouble(interrupted / 'checkpoints')
  before = snapshot(interrupted / 'checkpoints')
  done = run(command, world, interrupted)
  assert done.status == 1
  error = done.stderr.splitlines()[-1]
  assert error.startswith('Error: ') and re.search(message, error), error
  assert 'Traceback' not in done.stderr
  assert snapshot(interrupted / 'checkpoints') == before
  assert not (interrupted / 'weights').exists()
  assert not list(interrupted.glob('*_checkpoint_*'))


@pytest.fixture
def finished(uninterrupted, tmp_path):
  workdir = tmp_path / 'train_mdn_rnn'
  return Path(shutil.copytree(uninterrupted['train_mdn_rnn'], workdir))


def test_finished_run_says_so(command, world, finished):
  before = snapshot(finished)
  done = run(command, world, finished)
  assert done.status == 0 and 'is finished' in done.stderr
  assert snapshot(finished) == before


def test_a_cosine_is_not_continued_on_a_longer_one(command, world, finished):
  done = run(command, world, finished, f'--config.num_steps={LAST + 1}')
  assert done.status == 1
  assert f'num_steps is {LAST} there and {LAST + 1} here' in done.stderr


def test_finished_run_without_checkpoints_keeps_its_weights(
  command, world, finished
):
  shutil.rmtree(finished / 'checkpoints')
  before = snapshot(finished / 'weights')
  done = run(command, world, finished)
  assert done.status == 0 and 'is finished' in done.stderr
  assert snapshot(finished / 'weights') == before


def test_missing_weights_are_exported_again(
  command, world, finished, uninterrupted
):
  shutil.rmtree(finished / 'weights')
  done = run(command, world, finished)
  assert done.status == 0 and 'exported again' in done.stderr
  assert f'Continuing from step {LAST}' in done.stderr
  assert_equal_runs(finished, uninterrupted['train_mdn_rnn'])


def test_weights_without_any_checkpoint_are_not_made_up(
  command, world, finished
):
  shutil.rmtree(finished / 'weights')
  shutil.rmtree(finished / 'checkpoints')
  done = run(command, world, finished)
  assert done.status == 1
  assert 'but no checkpoint to continue from' in done.stderr
  assert not (finished / 'weights').exists()


def test_weights_of_another_run_are_not_taken_for_its_own(
  command, world, finished
):
  flip(finished / 'weights' / 'model.safetensors')
  done = run(command, world, finished)
  assert done.status == 1
  assert 'model.safetensors is damaged' in done.stderr
  assert f'Delete {finished}/weights and rerun the same command' in done.stderr


@pytest.mark.parametrize(
  ('key', 'value', 'message'),
  [
    ('step', 1, 'step is .* there and 1 here.*delete it'),
    ('step', -1, 'step: Input should be greater than or equal to 0'),
    ('validation', {}, 'validation is .*delete it'),
    ('weights_sha256', '0' * 64, 'weights_sha256 is .*delete it'),
  ],
)
def test_edited_metrics_are_not_believed(
  key, value, message, command, world, finished
):
  path = finished / 'metrics.json'
  metrics = json.loads(path.read_text())
  path.write_text(json.dumps({**metrics, key: value}))
  done = run(command, world, finished)
  assert done.status == 1 and re.search(message, done.stderr), done.stderr
  with pytest.raises(run_documents.RunError, match=message):
    run_documents.finished_metrics(finished)


def test_results_of_a_run_on_other_data_are_not_believed(finished):
  path = finished / 'run.json'
  content = json.loads(path.read_text())
  source = content['sources']['dataset']
  source['name'] = 'carracing_latents/another_name:9.0.0'
  path.write_text(json.dumps(content))
  run_documents.finished_metrics(finished)
  source['sha256']['train'] = '0' * 64
  path.write_text(json.dumps(content))
  with pytest.raises(
    run_documents.RunError, match='trained with another dataset.*; delete it'
  ):
    run_documents.finished_metrics(finished)


@pytest.fixture
def extensible(world, tmp_path_factory, tmp_path):
  """The config and a copy of a finished run that can be made longer."""
  config = tiny_vae_config()
  run = made_once(
    tmp_path_factory,
    'extensible',
    lambda folder: train_vae.train(config, folder, str(world.data_dir)),
  )
  shutil.copytree(run, tmp_path, dirs_exist_ok=True)
  return config


@pytest.mark.parametrize('steps', [3, 9])
def test_weights_are_not_trained_anew_where_checkpoints_are_gone(
  steps, world, extensible, tmp_path
):
  config = extensible
  shutil.rmtree(tmp_path / 'checkpoints')
  before = snapshot(tmp_path)
  config.num_steps = steps
  with pytest.raises(run_documents.RunError, match='no checkpoint to continue'):
    train_vae.train(config, tmp_path, str(world.data_dir))
  assert snapshot(tmp_path) == before


def test_refused_start_leaves_the_documents_as_they_are(
  world, extensible, tmp_path
):
  config = extensible
  documents = [(tmp_path / f'{n}.json').read_text() for n in ('config', 'run')]
  config.num_steps = 3
  with pytest.raises(
    run_documents.RunError, match='trained for 6 steps already'
  ):
    train_vae.train(config, tmp_path, str(world.data_dir))
  assert documents == [
    (tmp_path / f'{n}.json').read_text() for n in ('config', 'run')
  ]


def test_description_of_weights_that_is_gone_is_told_of(
  command, world, finished
):
  (finished / 'weights' / 'config.json').unlink()
  done = run(command, world, finished)
  assert done.status == 1
  assert f'Delete {finished}/weights and rerun the same command' in done.stderr


def test_data_of_another_name_are_continued_of_other_content_refused(
  world, extensible, tmp_path
):
  config = extensible
  config.num_steps = 7
  path = tmp_path / 'run.json'
  run = json.loads(path.read_text())
  source = run['sources']['dataset']
  sha256 = source['sha256']
  source['sha256'] = {**sha256, 'train': '0' * 64}
  source['name'] = 'carracing_rollouts/tiny:0.9.0'
  path.write_text(json.dumps(run))
  with pytest.raises(errors.UserError, match=r'dataset name is .*0\.9\.0'):
    train_vae.train(config, tmp_path, str(world.data_dir))
  source['sha256'] = sha256
  path.write_text(json.dumps(run))
  train_vae.train(config, tmp_path, str(world.data_dir))
  assert json.loads((tmp_path / 'metrics.json').read_text())['num_steps'] == 7


def test_two_processes_do_not_share_a_folder(command, world, tmp_path):
  with files.locked(tmp_path):
    done = run(command, world, tmp_path)
  assert done.status == 1
  assert f'another process is writing to {tmp_path}' in done.stderr
  assert [path.name for path in tmp_path.iterdir()] == ['.lock']


def test_full_disk_is_told_in_a_line(command, world, tmp_path):
  workdir = tmp_path / 'train_mdn_rnn'
  done = run(command, world, workdir, file_bytes=10**6)
  assert done.status == 1
  assert 'Traceback' not in done.stderr
  [error] = [x for x in done.stderr.splitlines() if x.startswith('Error: ')]
  assert f'cannot write a checkpoint to {workdir}/checkpoints: File' in error
  assert not (workdir / 'weights').exists()


def test_profile_of_an_early_end_is_written(command, world, tmp_path):
  done = run(
    command,
    world,
    tmp_path / 'run',
    '--profile_steps=50',
    '--config.num_steps=4',
  )
  assert done.status == 0, done.stderr
  assert list((tmp_path / 'run').glob('plugins/profile/*/*.xplane.pb'))


def test_resumes_on_another_number_of_devices(
  command, world, uninterrupted, interrupted, tmp_path
):
  shutil.rmtree(interrupted / 'checkpoints' / str(LAST))
  two = '--xla_force_host_platform_device_count=2'
  one = '--xla_force_host_platform_device_count=1'
  [start_of_run] = json.loads((interrupted / 'run.json').read_text())['starts']
  flags = one if start_of_run['devices'] == 2 else two
  done = run(command, world, interrupted, environment={'XLA_FLAGS': flags})
  assert done.status == 0, done.stderr
  assert f'Continuing from step {BEFORE_LAST}' in done.stderr
  starts = json.loads((interrupted / 'run.json').read_text())['starts']
  assert {s['devices'] for s in starts} == {1, 2}
  assert_close(interrupted, uninterrupted['train_mdn_rnn'])


def test_eight_devices_give_the_losses_of_one(
  command, world, uninterrupted, tmp_path
):
  workdir = tmp_path / 'train_vae'
  eight = '--xla_force_host_platform_device_count=8'
  module, arguments = arguments_of('train_vae', world.data_dir, workdir)
  process = command.start(module, *arguments, environment={'XLA_FLAGS': eight})
  returncode, said = interrupt(
    process, signal.SIGTERM, workdir, STEPS['train_vae'] // 4
  )
  assert returncode == 128 + signal.SIGTERM, said
  run = json.loads((workdir / 'run.json').read_text())
  assert run['starts'][0]['devices'] == 8
  # Later losses drift apart, because sums are rounded in a different order.
  losses, of_one = (
    [
      loss
      for loss in [*run_documents.read_curves(folder)['train/loss'].values()][
        :5
      ]
    ]
    for folder in (workdir, uninterrupted['train_vae'])
  )
  assert losses == pytest.approx(of_one, rel=1e-4)


def run_two_processes(command, world, workdir):
  """Returns the output of each process."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  module, arguments = arguments_of('train_mdn_rnn', world.data_dir, workdir)
  processes = [
    command.start(
      module,
      *arguments,
      '--distributed',
      f'--coordinator=localhost:{port}',
      '--num_processes=2',
      f'--process_id={process_id}',
      '--config.num_steps=8',
      '--config.eval_every_steps=4',
      '--config.checkpoint_every_steps=4',
    )
    for process_id in range(2)
  ]
  said = [process.communicate()[1] for process in processes]
  assert [process.returncode for process in processes] == [0, 0], said
  return said


def test_two_processes_give_one_run(command, world, uninterrupted, tmp_path):
  workdir = tmp_path / 'train_mdn_rnn'
  run_two_processes(command, world, workdir)
  run = json.loads((workdir / 'run.json').read_text())
  assert [s['processes'] for s in run['starts']] == [2]
  assert len(list(workdir.glob('events.out.tfevents.*'))) == 1
  metrics = json.loads((workdir / 'metrics.json').read_text())
  # Both evaluate on the same episodes as a single process.
  of_one = json.loads(
    (uninterrupted['train_mdn_rnn'] / 'metrics.json').read_text()
  )
  assert len({m['validation']['nll_floor'] for m in (metrics, of_one)}) == 1

  # The first process finds the damage, both continue from the older one.
  (workdir / 'metrics.json').unlink()
  shutil.rmtree(workdir / 'weights')
  flip(largest_file(workdir / 'checkpoints' / '8'))
  for said in run_two_processes(command, world, workdir):
    assert 'Continuing from step 4' in said
  assert json.loads((workdir / 'metrics.json').read_text()) == metrics


_TWICE = """
import os, signal
from trainers import loop
with loop._Interruption() as interrupted:
  for _ in range(2):
    os.kill(os.getpid(), signal.SIGTERM)
  print(interrupted.before_step(1).name, flush=True)
  os.kill(os.getpid(), signal.SIGINT)
  print('goes on')
"""


def test_a_signal_to_a_pipeline_and_its_trainer_is_one_signal():
  # A cluster sends it to both, and the pipeline passes it on.
  done = subprocess.run(
    [sys.executable, '-c', _TWICE], capture_output=True, text=True, check=False
  )
  assert done.stdout == 'SIGTERM\n', done.stderr
  assert 'KeyboardInterrupt' in done.stderr  # A later Ctrl-C stops at once.
