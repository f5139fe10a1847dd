"""Runs that are stopped in every way go on as if nothing had happened."""

import json
import os
from pathlib import Path
import random
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from tensorboard.backend.event_processing import event_accumulator

STEPS = 12
FLAGS = {
  'train_vae': {
    'dataset': 'carracing_rollouts/tiny',
    'batch_size': 16,
    'eval_batches': 1,
  },
  'train_mdn_rnn': {
    'dataset': 'carracing_latents/tiny',
    'batch_size': 4,
    'window_steps': 24,
  },
}


def command(trainer, data_dir, workdir):
  config = {
    **FLAGS[trainer],
    'num_steps': STEPS,
    'log_every_steps': 1,
    'eval_every_steps': 4,
    'checkpoint_every_steps': 4,
  }
  return [
    sys.executable,
    '-m',
    f'trainers.{trainer}',
    f'--workdir={workdir}',
    f'--data_dir={data_dir}',
    *(f'--config.{key}={value}' for key, value in config.items()),
  ]


def start(trainer, data_dir, workdir, *flags, **environment):
  return subprocess.Popen(
    [*command(trainer, data_dir, workdir), *flags],
    env={**os.environ, **environment},
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process):
  _, said = process.communicate()
  assert process.returncode == 0, said
  return said


def interrupt(process, number, step):
  """Sends a signal as soon as the metrics of a step are written."""
  for line in process.stderr:
    if re.search(rf'\[{step}\] train/', line):
      break
  process.send_signal(number)
  _, said = process.communicate()
  return process.returncode, said


def training_metrics(workdir):
  """Returns all that does not depend on the time, of every step."""
  events = event_accumulator.EventAccumulator(
    str(workdir), size_guidance={event_accumulator.TENSORS: 0}
  )
  events.Reload()
  return {
    (tag, event.step): event.tensor_proto.SerializeToString()
    for tag in events.Tags()['tensors']
    if tag.startswith('train/')
    and tag not in ('train/examples_per_second', 'train/input_wait_share')
    for event in events.Tensors(tag)
  }


def assert_equal_runs(found, expected):
  name = Path('weights/model.safetensors')
  a = safetensors.numpy.load_file(found / name)
  b = safetensors.numpy.load_file(expected / name)
  assert a.keys() == b.keys()
  for key, value in b.items():
    np.testing.assert_array_equal(a[key], value, err_msg=key)
  assert training_metrics(found) == training_metrics(expected)
  metrics = [
    json.loads((run / 'metrics.json').read_text()) for run in (found, expected)
  ]
  assert metrics[0] == metrics[1]


@pytest.fixture(scope='module')
def uninterrupted(world, tmp_path_factory):
  runs = {}
  for trainer in FLAGS:
    workdir = tmp_path_factory.mktemp('uninterrupted') / trainer
    finish(start(trainer, world.data_dir, workdir))
    runs[trainer] = workdir
  return runs


@pytest.mark.parametrize(
  ('trainer', 'number', 'status'),
  [
    ('train_vae', signal.SIGKILL, -signal.SIGKILL),
    ('train_mdn_rnn', signal.SIGTERM, 128 + signal.SIGTERM),
    ('train_mdn_rnn', signal.SIGINT, 128 + signal.SIGINT),
  ],
)
def test_stopped_run_equals_uninterrupted_run(
  trainer, number, status, world, uninterrupted, tmp_path
):
  workdir = tmp_path / trainer
  process = start(trainer, world.data_dir, workdir)
  returncode, said = interrupt(process, number, random.Random(0).randint(5, 9))
  assert returncode == status, said
  said = finish(start(trainer, world.data_dir, workdir))
  assert 'Continuing from step' in said
  assert_equal_runs(workdir, uninterrupted[trainer])


def test_damaged_checkpoint_is_put_aside_for_an_older_one(
  world, uninterrupted, tmp_path
):
  workdir = tmp_path / 'train_mdn_rnn'
  process = start('train_mdn_rnn', world.data_dir, workdir)
  returncode, said = interrupt(process, signal.SIGTERM, 9)
  assert returncode == 128 + signal.SIGTERM, said
  newest = max(
    (p for p in (workdir / 'checkpoints').iterdir() if p.name.isdigit()),
    key=lambda p: int(p.name),
  )
  [data, *_] = sorted(
    (p for p in newest.rglob('*') if p.is_file()),
    key=lambda p: -p.stat().st_size,
  )
  content = bytearray(data.read_bytes())
  content[len(content) // 2] ^= 1
  data.write_bytes(content)

  said = finish(start('train_mdn_rnn', world.data_dir, workdir))
  assert f'checkpoint of step {newest.name} is damaged' in said
  assert 'Continuing from step 8' in said
  assert_equal_runs(workdir, uninterrupted['train_mdn_rnn'])


def test_finished_run_says_so(world, uninterrupted):
  workdir = uninterrupted['train_mdn_rnn']
  before = (workdir / 'weights' / 'model.safetensors').read_bytes()
  said = finish(start('train_mdn_rnn', world.data_dir, workdir))
  assert 'is finished' in said
  assert (workdir / 'weights' / 'model.safetensors').read_bytes() == before


def test_eight_devices_give_the_losses_of_one(world, uninterrupted, tmp_path):
  workdir = tmp_path / 'train_vae'
  eight = '--xla_force_host_platform_device_count=8'
  finish(start('train_vae', world.data_dir, workdir, XLA_FLAGS=eight))
  run = json.loads((workdir / 'run.json').read_text())
  assert run['starts'][0]['devices'] == 8
  found, expected = (
    json.loads((folder / 'metrics.json').read_text())['validation']
    for folder in (workdir, uninterrupted['train_vae'])
  )
  assert found == pytest.approx(expected, rel=1e-4)


def test_two_processes_give_one_run(world, tmp_path):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  workdir = tmp_path / 'train_vae'
  processes = [
    start(
      'train_vae',
      world.data_dir,
      workdir,
      '--distributed',
      f'--coordinator=localhost:{port}',
      '--num_processes=2',
      f'--process_id={process_id}',
    )
    for process_id in range(2)
  ]
  for process in processes:
    finish(process)
  run = json.loads((workdir / 'run.json').read_text())
  assert [s['processes'] for s in run['starts']] == [2]
  assert len(list(workdir.glob('events.out.tfevents.*'))) == 1
