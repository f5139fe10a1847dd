"""Invalid input of a user leads to a one-line error message.

Every new flag, key and file gets its rows here: a command with an invalid
input, and a pattern of its error message.
"""

import contextlib
import importlib
import json
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys
import tempfile

from carracing_data import command_line
from carracing_data import errors
from carracing_data import json_documents
from carracing_data import prepared_dataset
from carracing_latents import loader as latents_loader
from carracing_rollouts import action_log
from carracing_rollouts import (
  carracing_rollouts_dataset_builder as rollouts_builder,
)
from carracing_rollouts import loader
from conftest import Done
from conftest import LATENTS_VERSION
from conftest import PROJECT
from conftest import tiny_controller_config
from conftest import tiny_vae_config
from conftest import VERSION
import gymnasium
import jax
import jax.numpy as jnp
from models import agent
from models import weights
import numpy as np
import pytest
from tools.browse_rollouts import pages
from tools.driving import track_scores
from tools.verify import __main__ as verify
from trainers import run_documents
from trainers import train_controller
from trainers import train_mdn_rnn
from trainers import train_vae

DATASETS = PROJECT / 'datasets'


@pytest.fixture(scope='module')
def kept(world, agent_folder, tmp_path_factory):
  """A folder of what commands refuse and therefore leave as it is."""
  folder = tmp_path_factory.mktemp('kept')
  (folder / 'finished' / 'agent').mkdir(parents=True)
  for name, parts in (
    ('without_m', ['vae', 'controller']),
    ('without_c', ['vae', 'mdn_rnn']),
    ('mixed', ['vae', 'mdn_rnn']),
  ):
    (folder / name).mkdir()
    for part in parts:
      (folder / name / part).symlink_to(agent_folder / part)
  weights.save(
    folder / 'mixed' / 'controller',
    'controller',
    {'latent_size': 32, 'hidden_size': 0},
    {
      'linear': {
        'kernel': np.zeros((32, 3), np.float32),
        'bias': np.zeros(3, np.float32),
      }
    },
    {'vae_sha256': 'of another', 'mdn_rnn_sha256': 'of another'},
  )
  old = shutil.copytree(agent_folder, folder / 'old') / 'mdn_rnn'
  (old / weights.START_STATES).unlink()
  content = json.loads((old / 'config.json').read_text())
  del content['start_states_sha256'], content['description_sha256']
  content = json_documents.sealed(content, 'description_sha256')
  json_documents.write(old / 'config.json', content)
  configs = {
    'syntax.py': 'x = (',
    'nothing.py': '',
    'attribute.py': (
      'import ml_collections\ndef get_config():\n'
      '  return ml_collections.ConfigDict().nothing\n'
    ),
    'method.py': (
      'import ml_collections\ndef get_config():\n'
      '  return ml_collections.ConfigDict({"method": ["evolution"]})\n'
    ),
    'number.py': 'def get_config():\n  return 3\n',
  }
  for name, text in configs.items():
    (folder / name).write_text(text)
  return folder


@pytest.fixture
def places(world, agent_folder, kept, tmp_path):
  """Values of the placeholders `{...}` in the rows below."""
  (tmp_path / 'file').write_text('a file')
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'text').mkdir()
  (tmp_path / 'text' / 'croissant.json').write_text('a thesis')
  return {
    'tmp': tmp_path,
    'kept': kept,
    'data': world.data_dir,
    'vae': world.vae,
    'vae_run': world.vae.parent,
    'mdn_rnn': world.mdn_rnn,
    'agent': agent_folder,
    'tiny': '--dataset=carracing_rollouts/tiny',
    'latents': '--dataset=carracing_latents/tiny',
  }


def copy_of(folder, name, target):
  """Copies a folder by links, but for what a test is going to damage."""
  shutil.copytree(folder, target, copy_function=os.link)
  damaged = target / name
  if damaged.is_dir():
    shutil.rmtree(damaged)
  else:
    damaged.unlink()
  return target


def assert_one_line(done, message):
  said = done.stderr + done.stdout
  assert 'Traceback' not in said, said
  assert done.status not in (0, None), said
  errors = [line for line in said.splitlines() if line.startswith('Error: ')]
  assert len(errors) == 1, said
  assert re.search(message, errors[0]), errors[0]


@contextlib.contextmanager
def error_of_one_line(message):
  """Expects an error that every program shows as a line."""
  with pytest.raises((errors.UserError, OSError)) as caught:
    yield
  line = command_line.line_of(caught.value)
  assert line and re.search(message, line), line


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    ('', '--config is empty'),
    (' ', "there is no config ' '"),
    ('{bad', '--config is not valid JSON'),
    ('{"num_episodes": 2}', 'name: a name has'),
    ('paper.json', "no config 'paper.json'.*cat FILE"),
    ('[1]', r"no config '\[1\]'"),
    ('--overwrite', "no config '--overwrite'"),
    (' {"name": "x"}', 'there is no config'),
    ('{"name": ' + '[' * 100_000, '--config is not valid JSON'),
    ('{"name": "x", "description": 3}', 'description: '),
    ('{"name": "default", "num_episodes": 2}', "'default' is taken"),
    ('{"name": "x", "version": "2.0.0"}', "unknown config key 'version'"),
    (
      '{"name": "x", "episodes": 2}',
      "'episodes'; the keys are name, actions",
    ),
    ('{"name": null}', 'name: Input should be a valid string, not None'),
    ('{"name": 3}', 'name: Input should be a valid string, not 3'),
    ('{"name": "a:b"}', "name: a name has .*, not 'a:b'"),
    ('{"name": "a b"}', 'name: a name has'),
    ('{"name": ""}', 'name: a name has'),
    ('{"name": "../../x"}', 'name: a name has'),
    ('{"name": "/tmp/x"}', 'name: a name has'),
    ('{"name": ".x"}', 'name: a name has'),
    ('{"name": "x", "num_episodes": 1}', 'num_episodes: .*, not 1'),
    ('{"name": "x", "num_episodes": 2000000000}', 'num_episodes: '),
    ('{"name": "x", "num_episodes": "2"}', 'num_episodes: .*integer'),
    ('{"name": "x", "num_episodes": null}', 'num_episodes: .*, not None'),
    ('{"name": "x", "max_steps": 0}', 'max_steps: '),
    ('{"name": "x", "max_steps": 1.5}', 'max_steps: '),
    ('{"name": "x", "seed": -1}', 'seed: '),
    ('{"name": "x", "seed": true}', 'seed: '),
    (
      '{"name": "x", "policy": "expert"}',
      "uniform, not 'expert'; or recorded",
    ),
    ('{"name": "x", "policy": "uniform:gas=1"}', "policy: .*, not 'uniform:"),
    ('{"name": "x", "policy": "straight_ahead:v=1"}', r'ahead\[:gas=0..1\],'),
    ('{"name": "x", "policy": "straight_ahead:gas=2"}', 'policy: .*gas=2'),
    ('{"name": "x", "policy": "straight_ahead:gas=nan"}', 'policy: .*gas=nan'),
    ('{"name": "x", "policy": "' + 'x' * 1000 + '"}', 'policy: .* 100 char'),
    ('{"name": "x", "policy": "straight_ahead:gas=1e-3"}', 'gas=1e-3'),
    ('{"name": "x", "policy": "straight_ahead:gas= 1"}', 'policy: .*gas= 1'),
    ('{"name": "x", "policy": "straight_ahead:gas=\u0661"}', 'policy: .*gas='),
    ('{"name": "x", "policy": 3}', 'policy: .*, not 3'),
    ('{"name": "x", "simulator": "torcs"}', "simulator: .*, not 'torcs'"),
    ('{"name": "x", "simulator": "envpool"}', 'one of gymnasium, sketched'),
    ('{"name": "x", "simulator": ["gymnasium"]}', 'simulator: '),
    ('{"name": "x", "actions": "gs://b/log.npz"}', 'npz is an address, not'),
  ],
)
def test_rollouts_config(config, message, command, tmp_path):
  done = command(
    'tfds',
    'build',
    'carracing_rollouts',
    f'--data_dir={tmp_path}',
    f'--config={config}',
    cwd=DATASETS,
  )
  assert_one_line(done, message)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    ('{"name": "x", "latent_size": 0}', 'latent_size: '),
    ('{"name": "x", "vae": 3}', 'vae: '),
    (r'{"name": "x", "vae": "/a\u0000b"}', 'no path: it contains a NUL'),
    (r'{"name": "x", "vae": "/a\nb"}', 'no exported weights'),
    ('{"name": "x", "vae": "/none"}', r'no exported weights .*train_vae'),
    ('{"name": "x", "vae": "gs://b/vae"}', 'gs://b/vae is an address'),
    ('{"name": "x", "rollouts": "gs://b/x"}', 'gs://b/x is an address'),
    ('{"name": "x", "vae": "VAE_RUN"}', r'did you mean .*/weights\?'),
    ('{"name": "x", "vae": "MDN_RNN"}', 'weights of a mdn_rnn, not of a vae'),
    ('{"name": "x", "vae": "VAE", "latent_size": 8}', '"latent_size": 32'),
    (
      '{"name": "x", "rollouts": "carracing_rollouts/none"}',
      'tfds build datasets/c',
    ),
    ('{"name": "x", "rollouts": "carracing_latents/tiny"}', 'is needed here'),
    ('{"name": "x", "rollouts": "carracing_rollouts/tiny@0"}', 'not a digest'),
    (
      '{"name": "x", "rollouts": "carracing_rollouts/tiny@00000000"}',
      'holds .*, not @00000000',
    ),
    ('{"name": "x", "rollouts": "../x"}', 'there is no folder .*/x'),
    ('{"name": "tiny", "vae": "VAE"}', 'was built with .*--overwrite'),
  ],
)
def test_latents_config(config, message, command, places):
  for name in 'VAE_RUN', 'VAE', 'MDN_RNN':
    config = config.replace(f'"{name}"', f'"{places[name.lower()]}"')
  if 'rollouts"' not in config:
    config = config[:-1] + ', "rollouts": "carracing_rollouts/straight_ahead"}'
  done = command(
    'tfds',
    'build',
    'carracing_latents',
    f'--data_dir={places["data"]}',
    f'--config={config}',
    cwd=DATASETS,
  )
  assert_one_line(done, message)


def test_address_of_a_data_directory(command, tmp_path):
  build = 'build', PROJECT / 'datasets' / 'carracing_rollouts'
  done = command('tfds', *build, '--data_dir=gs://b/data', cwd=tmp_path)
  assert_one_line(done, 'gs://b/data is an address, not a path')
  # TFDS reads the variable when it is imported.
  done = subprocess.run(
    [shutil.which('tfds'), *build],
    cwd=tmp_path,
    env={**os.environ, 'TFDS_DATA_DIR': 's3://b/x', 'HOME': str(tmp_path)},
    capture_output=True,
    text=True,
    check=False,
  )
  done = Done(done.returncode, done.stdout, done.stderr)
  assert_one_line(done, 's3://b/x is an address, not a path')
  assert not list(tmp_path.glob('**/carracing_rollouts'))


@pytest.mark.parametrize(
  'flag',
  ['--max_examples_per_split=1', '--num_shards=3', '--max_shard_size_mb=1'],
)
def test_option_of_tfds_that_would_do_nothing(flag, command, tmp_path):
  done = command(
    'tfds',
    'build',
    'carracing_rollouts',
    f'--data_dir={tmp_path}',
    flag,
    cwd=DATASETS,
  )
  assert_one_line(done, 'is not supported')


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('--data_dir=', 'data_dir is empty; omit it'),
    ('--beam_pipeline_options=garbage', 'name no runner; write runner=NAME'),
  ],
)
def test_flag_of_tfds(flag, message, command, tmp_path):
  config = '--config={"name": "x", "num_episodes": 2, "max_steps": 3}'
  folder = f'--data_dir={tmp_path}'
  arguments = [x for x in (folder, flag) if flag != '--data_dir=' or x == flag]
  done = command(
    'tfds', 'build', 'carracing_rollouts', *arguments, config, cwd=DATASETS
  )
  assert_one_line(done, message)


TRAIN = {
  'vae': 'trainers.train_vae --data_dir={data} --workdir={tmp}/run'
  ' --config.dataset=carracing_rollouts/tiny ',
  'mdn_rnn': 'trainers.train_mdn_rnn --data_dir={data} --workdir={tmp}/run'
  ' --config.dataset=carracing_latents/tiny ',
  'controller': 'trainers.train_controller --vae={vae} --mdn_rnn={mdn_rnn}'
  ' --workdir={tmp}/run ',
}
TRAIN_ON = TRAIN['mdn_rnn'] + '--config.window_steps=24 --initial_weights='
EVOLUTION = (
  TRAIN['controller'] + '--config=trainers/configs/controller_evolution.py '
)

DREAMING = (
  TRAIN['controller'] + '--config=trainers/configs/controller_dream.py '
)


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('trainers.train_vae', '^Error: --workdir is required$'),
    (TRAIN['vae'] + '--speed=3', "Unknown command line flag 'speed'"),
    (TRAIN['vae'] + 'surplus', "unexpected argument 'surplus'"),
    (TRAIN['vae'] + '--config=', '--config=: there is no such file'),
    (TRAIN['vae'] + '--config={tmp}', 'there is no such file'),
    (TRAIN['vae'] + '--config={tmp}/none.py', 'there is no such file'),
    (TRAIN['vae'] + '--flagfile={tmp}/none', '^Error: Unable to open flagf'),
    (
      TRAIN['vae'] + '--workdir={data}/carracing_rollouts/tiny/' + VERSION,
      'holds a dataset; choose another --workdir',
    ),
    (TRAIN['vae'] + '--config={tmp}/file', 'fails: SyntaxError'),
    (TRAIN['vae'] + '--config={kept}/syntax.py', 'fails: .*line 1'),
    (TRAIN['vae'] + '--config={kept}/nothing.py', 'must define get_config'),
    (TRAIN['vae'] + '--config={kept}/number.py', 'must define get_config'),
    (
      TRAIN['vae'] + '--config={kept}/attribute.py',
      'fails in line 3: Attribut',
    ),
    (TRAIN['vae'] + '--config.num_step=3', "key 'num_step'; did you mean 'num"),
    (TRAIN['vae'] + '--config.num_steps=many', 'num_steps=many'),
    (TRAIN['vae'] + '--config.nocosine_deca', "key 'nocosine_deca'"),
    (TRAIN['vae'] + '--config.warmup_steps=1' + '0' * 30, 'warmup_steps'),
    (TRAIN['vae'] + '--config.num_steps=0', 'num_steps: '),
    (TRAIN['vae'] + '--config.dataset=nothing/none', 'no prepared dataset'),
    (
      TRAIN['vae'] + '--config.dataset=carracing_latents/tiny',
      'is needed here',
    ),
    (
      TRAIN['vae'] + '--config.dataset={tmp}/empty',
      'holds no complete dataset',
    ),
    (TRAIN['vae'] + '--data_dir={tmp}/none', 'no prepared dataset'),
    (TRAIN['vae'] + '--workdir={tmp}/file', 'cannot write .*file'),
    (TRAIN['vae'] + '--workdir=/proc/none', 'cannot write /proc/none'),
    (TRAIN['vae'] + '--workdir=gs://bucket/run', 'gs://.* is an address, not'),
    (TRAIN['vae'] + '--config.dataset=s3://b/x', 's3://b/x is an address'),
    (TRAIN['vae'] + '--data_dir=hf://datasets/x', 'hf://.* is an address'),
    (TRAIN_ON + 'gs://b/m', 'gs://b/m is an address'),
    (TRAIN['controller'] + '--vae=https://b/v', 'https://b/v is an address'),
    (TRAIN['vae'] + '--distributed', 'cannot join the other processes'),
    (
      TRAIN['vae'] + '--distributed --coordinator=garbage --num_processes=2'
      ' --process_id=0',
      '--coordinator=garbage is not HOST:PORT',
    ),
    (
      TRAIN['vae'] + '--distributed --coordinator=no.such.host.invalid:1'
      ' --num_processes=2 --process_id=0',
      '--coordinator=no.such.host.invalid:1 is not HOST:PORT',
    ),
    (
      TRAIN['vae'] + '--distributed --coordinator=localhost:1 --num_processes=2'
      ' --process_id=2',
      'process_id < num_processes',
    ),
    (TRAIN['vae'] + '--distributed --num_processes=2', 'cannot join .*defined'),
    (TRAIN['vae'] + '--num_processes=2', 'need --distributed'),
    (TRAIN_ON + '{tmp}/none', 'weights of a mdn_rnn'),
    (TRAIN_ON + '{vae}', 'of a vae, not of a mdn_'),
    (
      TRAIN_ON + '{mdn_rnn} --config.hidden_size=8',
      'hidden_size is 256 there and 8 here',
    ),
    (
      TRAIN['mdn_rnn'] + '--config.dataset=carracing_latents/tiny+',
      "'' is not a dataset name",
    ),
    (
      TRAIN['mdn_rnn'] + '--config.dataset=carracing_latents/tiny+'
      'carracing_latents/tiny@00000000',
      'holds .*, not @00000000',
    ),
    (
      TRAIN['mdn_rnn'] + '--config.dataset=carracing_latents/tiny+a/b',
      'no prepared dataset',
    ),
    (
      TRAIN['mdn_rnn'] + '--config.dataset=carracing_rollouts/tiny',
      'is needed here',
    ),
    (TRAIN['controller'] + '--vae={tmp}/none', r'weights of a vae in .*/none'),
    (TRAIN['controller'] + '--vae={mdn_rnn}', 'of a mdn_rnn, not of a vae'),
    (TRAIN['controller'] + '--vae={vae_run}', r'did you mean .*/weights\?'),
    (TRAIN['controller'] + '--mdn_rnn={vae}', 'of a vae, not of a mdn_rnn'),
    (TRAIN['controller'] + '--data_dir={tmp}', "flag 'data_dir'"),
    (
      TRAIN['controller'] + '--config=trainers/configs/vae.py',
      'is --config=FILE a config of this trainer',
    ),
    (TRAIN['controller'] + '--distributed', "flag 'distributed'"),
    (
      TRAIN['controller'] + '--config={kept}/method.py',
      'a config of this trai',
    ),
    (TRAIN['controller'] + '--config.method=luck', "method: .*, not 'luck'"),
    (
      TRAIN['controller'] + '--config.method=evolution',
      'Extra inputs .*is --config=FILE a config of this trainer',
    ),
    (TRAIN['vae'] + '--config', 'expected one argument'),
    (DREAMING + '--initial_weights={tmp}/none', 'weights of a controller'),
    (DREAMING + '--initial_weights={vae}', 'of a vae, not of a controller'),
    (TRAIN['controller'] + '--initial_weights={vae}', 'needs method=dream'),
    (DREAMING + '--config.method=actor_critic', 'Extra inputs are not '),
  ],
)
def test_trainers(line, message, command, places):
  module, *arguments = line.format(**places).split(' ')
  done = command(module, *filter(None, arguments))
  assert_one_line(done, message)
  assert not (places['tmp'] / 'run').exists()


@pytest.mark.parametrize(
  ('name', 'change', 'message'),
  [
    ('vae', 'batch_size=1000000000000', 'batch_size: '),
    ('vae', 'latent_size=1000000000', 'latent_size: '),
    ('vae', 'architecture=a/b', 'architecture: '),
    ('mdn_rnn', 'architecture=', 'architecture: '),
    ('vae', 'learning_rate=nan', 'learning_rate: '),
    ('vae', 'learning_rate=inf', 'learning_rate: '),
    ('vae', 'learning_rate=1e30', 'learning_rate: .* to 1, not 1e'),
    ('vae', 'free_nats=-1', 'free_nats: '),
    ('vae', 'eval_frames=0', 'eval_frames: '),
    ('vae', 'dtype=float64', "dtype: Input should be 'float32' or"),
    ('vae', 'seed=-1', 'seed: '),
    ('vae', 'seed=1099511627776', 'seed: '),
    ('vae', 'batch_size=0', 'batch_size: .* than or equal to 1, not 0'),
    ('mdn_rnn', 'window_steps=71', 'longest episode of .* 70 transitions'),
    ('mdn_rnn', 'hidden_size=0', 'hidden_size: '),
    ('mdn_rnn', 'num_mixtures=1000000000', 'num_mixtures: '),
    ('controller', 'features=z,c', "'z,h' or 'z', not 'z,c'"),
    ('controller', 'simulator=torcs', 'one of gymnasium, ske'),
    ('controller', 'num_cars=3', 'num_cars: 3 does not divi'),
    ('controller', 'selection_tracks=0', 'selection_tracks: '),
    ('controller', 'selection_tracks=4096', 'selection_trac'),
    ('controller', 'drive_steps=0', 'drive_steps: '),
    ('controller', 'stuck_steps=-1', 'stuck_steps: '),
    ('controller', 'noise_correlation=1.0', 'noise_correl'),
    ('controller', 'deterministic_share=1.5', 'deterministic_share: '),
    ('controller', 'warmup_steps=0', 'warmup_steps: '),
    ('controller', 'start_share=1.5', 'start_share: '),
    ('controller', 'start_offset=-1.0', 'start_offset: '),
    ('controller', 'start_angle=nan', 'start_angle: '),
    ('controller', 'retry_share=1.5', 'retry_share: '),
    ('controller', 'grass_penalty=-1.0', 'grass_penalty: '),
    ('controller', 'speed_penalty=inf', 'speed_penalty: '),
    ('controller', 'missed_penalty=nan', 'missed_penalty: '),
    ('controller', 'reward_scale=nan', 'reward_scale: '),
    ('controller', 'critic_size=0', 'critic_size: '),
    ('controller', 'start_offset=1e300', 'start_offset: '),
    ('controller', 'updates_per_step=90000', 'than 1,000,000 s'),
    ('controller', 'replay_steps=100000000', 'replay_steps: '),
    ('controller', 'replay_steps=0', 'replay_steps: '),
    ('controller', 'replay_steps=40', '40 is too small'),
    ('controller', 'replay_steps=160', 'for drive_steps=32'),
    ('controller', 'return_steps=0', 'return_steps: '),
    ('controller', 'batch_size=0', 'batch_size: '),
    ('controller', 'updates_per_step=0', 'updates_per_step: '),
    ('controller', 'discount=1.0', 'discount: '),
    ('controller', 'learning_rate=-1.0', 'learning_rate: '),
    ('controller', 'initial_temperature=0.0', 'temperature: '),
    ('controller', 'initial_temperature=2.0', 'temperature: '),
    ('controller', 'target_entropy=nan', 'target_entropy: '),
    ('controller', 'last_target_entropy=-101.0', 'last_target_entropy: '),
    ('controller', 'target_ema_decay=2.0', 'target_ema_decay'),
    ('controller', 'ema_decay=-0.1', 'ema_decay: '),
    ('controller_evolution', 'initial_deviation=1e300', 'initial_deviation: '),
    ('controller_evolution', 'initial_deviation=0.0', 'initial_deviation: '),
    ('controller_evolution', 'num_steps=20000', 'num_steps: '),
    ('controller_evolution', 'num_cars=1', 'num_cars: '),
    ('controller_evolution', 'tracks_per_step=0', 'tracks_per_step: '),
    ('controller_dream', 'num_dreams=0', 'num_dreams: '),
    ('controller_dream', 'dream_steps=0', 'dream_steps: '),
    ('controller_dream', 'num_dreams=50000', 'than 1,000,000 samples'),
    ('controller_dream', 'dream_temperature=0.0', 'dream_temperature: '),
    ('controller_dream', 'dream_temperature=nan', 'dream_temperature: '),
    ('controller_dream', 'gas_penalty=-1.0', 'gas_penalty: '),
    ('controller_dream', 'grass_penalty=-1.0', 'grass_penalty: '),
    ('controller_dream', 'grass_penalty=nan', 'grass_penalty: '),
    ('controller_dream', 'reward_scale=inf', 'reward_scale: '),
    ('controller_dream', 'critic_size=0', 'critic_size: '),
    ('controller_dream', 'updates_per_step=0', 'updates_per_step: '),
    ('controller_dream', 'discount=1.0', 'discount: '),
    ('controller_dream', 'trace_decay=1.1', 'trace_decay: '),
    ('controller_dream', 'learning_rate=-1.0', 'learning_rate: '),
    ('controller_dream', 'cosine_decay=False', 'cosine_decay: '),
    ('controller_dream', 'critic_learning_rate=nan', 'critic_learning_rate: '),
    ('controller_dream', 'critic_learning_rate=1e30', 'critic_learning_rate: '),
    ('controller_dream', 'initial_temperature=0.0', 'temperature: '),
    ('controller_dream', 'target_entropy=nan', 'target_entropy: '),
    ('controller_dream', 'target_ema_decay=2.0', 'target_ema_decay'),
    ('controller_dream', 'ema_decay=-0.1', 'ema_decay: '),
    ('controller_dream', 'num_cars=5', 'num_cars: 5 does not divi'),
  ],
)
def test_value_of_a_config(name, change, message, world, tmp_path):
  config = importlib.import_module(f'trainers.configs.{name}').get_config()
  key, _, value = change.partition('=')
  config[key] = (
    value == 'True' if config[key] is True else type(config[key])(value)
  )
  with pytest.raises(errors.UserError, match=message) as error:
    match name:
      case 'vae':
        config.dataset = 'carracing_rollouts/tiny'
        train_vae.train(config, tmp_path / 'run', str(world.data_dir))
      case 'mdn_rnn':
        config.dataset = 'carracing_latents/tiny'
        train_mdn_rnn.train(config, tmp_path / 'run', str(world.data_dir))
      case _:
        train_controller.train(
          config, tmp_path / 'run', world.vae, world.mdn_rnn
        )
  assert str(error.value).startswith('invalid config: ')
  assert not (tmp_path / 'run').exists()


VERIFY = 'tools.verify --data_dir={data} '
DREAM = (
  'tools.dream --data_dir={data} --vae={vae} --mdn_rnn={mdn_rnn}'
  ' --output_dir={tmp}/out {tiny} '
)
ERRORS = (
  'tools.dream_errors --data_dir={data} --vae={vae} --mdn_rnn={mdn_rnn} {tiny} '
)
FIDELITY = 'tools.dream_fidelity --agent={agent} --output_dir={tmp}/out '
SELECT = 'tools.select_episodes --data_dir={data} --output={tmp}/out/x.npz '
VIEW = 'tools.view_rollouts --data_dir={data} --output_dir={tmp}/out {tiny} '
BROWSE = 'tools.browse_rollouts --data_dir={data} --output_dir={tmp}/out '
EXPORT = 'tools.export --data_dir={data} --output_dir={tmp}/out '
MODEL = 'tools.export --format=model --output_dir={tmp}/out '
DRIVE = 'tools.drive --agent={agent} --output_dir={tmp}/out '
PLAY = 'tools.play --agent={agent} '
PAGE = 'tools.export_page --output={tmp}/out/dream.html '
REPORT = 'tools.report {agent} '
DEMO = 'tools.demo --output_dir={tmp}/out '
ROUNDS = 'tools.two_rounds --output_dir={tmp}/out '
DREAM_ROUNDS = 'tools.dream_rounds --output_dir={tmp}/out '


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('', "'' is not a dataset name"),
    ('.', 'is not a dataset name'),
    ('x:abc', 'is not a dataset name'),
    ('x[train]', 'is not a dataset name'),
    ('../x', 'there is no folder .*/x'),
    ('{tmp}/empty', 'holds no complete dataset.*is missing'),
    ('{tmp}/file', 'holds no complete dataset'),
    ('/none', 'there is no folder /none$'),
    ('x' * 300, 'cannot use .*: File name too long; choose a shorter'),
    ('/' + 'x/' * 3000, 'cannot use .*: File name too long; choose a sho'),
    ('~nosuchuser/x/y/z', 'home directory'),
    ('gs://bucket/carracing_rollouts/tiny/1.0.0', 'is an address, not a path'),
    ('gs://b/carracing_rollouts@0123abcd', 'is an address, not a path'),
    ('carracing_rollouts/none', 'no prepared dataset .*tfds build'),
    (
      'carracing_rollouts/tiny:9.9.9',
      r'available: .* Build it .*; that makes the version of this code\. Get',
    ),
    ('carracing_rollout/tiny', '; did you mean carracing_rollouts[?]$'),
    ('carracing_rollouts/tyny', '; did you mean carracing_rollouts/tiny[?]'),
    (
      'runs/vae',
      "dataset 'runs/vae' in .*; nor is there a folder of this name$",
    ),
    ('carracing_rollouts/tiny@00000000', 'holds .*@.*, not @00000000'),
    ('carracing_rollouts/tiny@0000000', "'0000000' in .* 8 to 64 of"),
    ('carracing_rollouts/tiny@' + '0' * 65, 'is not a digest'),
    ('carracing_rollouts/tiny@ABCDEF01', "'ABCDEF01' in .* is not a d"),
    ('carracing_rollouts/tiny@', "'' in .* is not a digest"),
    ('{tmp}/none@host', "'host' in .*/none@host' is not a digest"),
    ('nothing@00000000', "no prepared dataset 'nothing' in"),
    ('@00000000', "'' is not a dataset name"),
  ],
)
def test_name_of_a_dataset(name, message, places):
  with error_of_one_line(message):
    prepared_dataset.find(name.format(**places), places['data'])


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    (VERIFY + '--dataset=', "'' is not a dataset name"),
    (VIEW + '--dataset=.', 'is not a dataset name'),
    (BROWSE + '--dataset=../x', 'there is no folder .*/x'),
    (EXPORT + '--format=rlds --dataset=x', "no prepared dataset 'x'"),
    (DREAM + '--dataset=x[train]', 'is not a dataset name'),
    (VERIFY + '{tiny} --compare=', 'is not a dataset name'),
    (VERIFY + '{tiny} --compare=nothing', 'no prepared dataset'),
    (VERIFY + '{tiny} --compare={data}/carracing_latents', 'no complete datas'),
    (VERIFY + '{tiny} --expect=00000000', 'holds .*tiny:.*@.*, not @00000000'),
    (VERIFY + '{latents} --expect=00000000', 'holds .*, not @00000000'),
    (VERIFY + '{tiny} --expect=', "'' is not a digest"),
    (VERIFY + '{tiny} --expect=1.1.0', "'1.1.0' is not a digest"),
    (VERIFY + '{tiny} --expect=00000000 --compare=x', 'At most one of'),
    (VERIFY + '{tiny} surplus', "unexpected argument 'surplus'"),
    (BROWSE + '{latents}', 'is a carracing_latents dataset, but'),
    (BROWSE + '{tiny} --output_dir={tmp}/file', 'cannot write .*file'),
    (VIEW + '{latents}', 'is a carracing_latents dataset, but'),
    (VIEW + '--episode=3', 'has 3 train episodes'),
    (VIEW + '--output_dir={tmp}/file', 'cannot write .*file'),
    (SELECT + '{latents}', 'is a carracing_latents dataset, but'),
    (SELECT + '{tiny} --output=gs://b/x', 'gs://b/x is an address'),
    (SELECT + '{tiny} --output={tmp}/file', 'file already exists; choose'),
    (SELECT + '{tiny} --output={tmp}', 'it is not a regular file'),
    (SELECT + '{tiny} --drivers=agent*', 'no train episode is wanted, of 3 w'),
    (
      SELECT + '{tiny} --min_return=nan',
      'no train .*, of 3 with returns from .* and .* steps, driven by rand',
    ),
    (SELECT + '{tiny} --drivers=é', 'must be at most 400 ASCII'),
    (SELECT + '{tiny} --output=', 'a path is empty; name a file or a folder'),
    (SELECT + '{tiny} --part=1:', 'no validation episode is wanted, of 1 wit'),
    (SELECT + '{tiny} --part=1', '--part=1: it is not START:STOP or START:STO'),
    (SELECT + '{tiny} --part=::0', '--part=::0: slice step cannot be zero'),
    (SELECT + '{tiny} --part=a:', '--part=a:: invalid literal for int'),
    (
      SELECT + '{tiny}+carracing_rollouts/straight_ahead',
      'datasets differ in max_steps: 70 of .*tiny:.*, 400 of .*straight_ahead',
    ),
    (
      'tools.datasets --data_dir={tmp}/none',
      'there is no data directory .*non',
    ),
    ('tools.datasets --data_dir={tmp}/empty', 'empty holds no datasets; build'),
    ('tools.datasets --data_dir=gs://b/x', 'gs://b/x is an address'),
    ('tools surplus', "unexpected argument 'surplus'$"),
    ('tools verfy', 'did you mean python -m tools.verify[?]'),
    (EXPORT + '{tiny}', '^Error: --format is required$'),
    (VERIFY + '--dataset=gs://b/x', 'gs://b/x is an address, not a path'),
    (VERIFY + '{tiny} --compare=gs://b/x', 'gs://b/x is an address'),
    (VERIFY + '{tiny} --data_dir=gs://b/x', 'gs://b/x is an address'),
    (VERIFY + '{tiny} --data_dir=', 'leave it out, or name a folder'),
    ('tools.datasets --data_dir=', 'leave it out, or name a folder'),
    (VIEW + '--output_dir=s3://b/x', 's3://b/x is an address, not a path'),
    (BROWSE + '{tiny} --output_dir=s3://b/x', 's3://b/x is an address'),
    (EXPORT + '{tiny} --format=rlds --output_dir=s3://b/x', 'is an address'),
    (MODEL + '--agent=hf://b/x', 'hf://b/x is an address'),
    (MODEL + '--evaluation=gs://b/x', 'gs://b/x is an address'),
    (MODEL + '--film=gs://b/x', 'gs://b/x is an address'),
    (MODEL + '--film={tmp}/none.mp4', 'there is no .*none.mp4; make it with'),
    (MODEL + '--film={tmp}/file', 'file is no MP4'),
    (MODEL + '--film={tmp}', 'cannot read .*: Is a directory'),
    (EXPORT + '--format=parquet --film=x', 'film does nothing with --format'),
    (DRIVE + '--agent=gs://b/x', 'gs://b/x is an address'),
    (DRIVE + '--output_dir=gs://b/x', 'gs://b/x is an address'),
    (DREAM + '--output_dir=gs://b/x', 'gs://b/x is an address'),
    (PLAY + '--agent=gs://b/x', 'gs://b/x is an address'),
    (ERRORS + '--output=gs://b/x', 'gs://b/x is an address'),
    (FIDELITY + '--mdn_rnn=gs://b/x', 'gs://b/x is an address'),
    (FIDELITY + '--output_dir=gs://b/x', 'gs://b/x is an address'),
    (PAGE + '--output=gs://b/x', 'gs://b/x is an address'),
    (
      EXPORT + '--format=croissant {tiny} --output_dir={tmp}/text',
      'croissant.json: it holds something else; name another',
    ),
    (REPORT + '--output={tmp}/file', 'it holds something else; name another'),
    (
      'tools.export_page --output={tmp}/file',
      'it holds something else; name another f',
    ),
    (REPORT + '--output=gs://b/x', 'gs://b/x is an address'),
    ('tools.report gs://b/x', 'gs://b/x is an address'),
    ('tools.report {agent} --search=gs://b/x', 'gs://b/x is an address'),
    ('tools.lineage gs://b/x', 'gs://b/x is an address'),
    ('tools.compare_runs gs://b/x', 'gs://b/x is an address'),
    (DEMO + '--output_dir=gs://b/x', 'gs://b/x is an address'),
    (EXPORT + '{tiny} --format=csv', 'format=csv'),
    *(
      (f'{EXPORT}{{latents}} --format={format_}', 'is a carracing_latents data')
      for format_ in ('rlds', 'minari', 'parquet')
    ),
    *(
      (
        f'{EXPORT}{{tiny}} --format={format_} --output_dir={{tmp}}/file',
        'cannot write .*file',
      )
      for format_ in ('croissant', 'rlds', 'minari', 'parquet')
    ),
    (EXPORT + '--format=rlds --agent={agent}', '--agent does nothing with --f'),
    (EXPORT + '--format=parquet --evaluation=x', '--evaluation does nothing'),
    (EXPORT + '--format=rlds --float16', '--float16 does nothing with --'),
    (EXPORT + '--format=model', '--data_dir does nothing with --format=model'),
    (MODEL + '{tiny}', '--dataset does nothing with --format=model'),
    (MODEL + '--agent={tmp}/none', 'no exported weights of a controller in '),
    (MODEL + '--float16 --agent={tmp}/none', 'no exported weights of a cont'),
    (MODEL + '--evaluation={tmp}/none', 'there is no .*none; make it with: '),
    (MODEL + '--evaluation={tmp}/file', 'file is damaged: .*; make it again'),
    (EXPORT + '{tiny} --format=rlds --output_dir=', 'output_dir=: .*a folder'),
    (EXPORT + '--format=model --agent=', 'agent=: .*a folder'),
    (
      'tools.report {agent} --search={tmp}/none',
      '--search=.*none is no folder',
    ),
    (
      'tools.report {agent} --data_dir={tmp}/no',
      '--data_dir=.*no is no folder',
    ),
    (MODEL + '--evaluation={tmp}', 'cannot read .*directory'),
    (MODEL + '--output_dir={tmp}/file', 'cannot write .*file'),
    (DREAM + '--vae={tmp}/none', r'no exported weights .*trainers\.train_vae'),
    (DREAM + '--vae={vae_run}', r'did you mean .*/weights\?'),
    (DREAM + '--vae={mdn_rnn}', 'weights of a mdn_rnn, not of a vae'),
    (DREAM + '--mdn_rnn={vae}', 'weights of a vae, not of a mdn_rnn'),
    (DREAM + '--vae=~nosuchuser/w', 'home directory'),
    (DREAM + '{latents}', 'is a carracing_latents dataset, but'),
    (DREAM + '--episode=1', 'has 1 validation episodes'),
    (DREAM + '--seen_steps=70', 'too few to watch 70'),
    (DREAM + '--temperature=nan', 'temperature.*nan'),
    (DREAM + '--seen_steps=20 --output_dir={tmp}/file', 'cannot write .*file'),
    (DRIVE + '--agent={tmp}/none', 'no exported weights of a controller in '),
    (DRIVE + '--agent={tmp}/file', 'no exported weights of a controller in '),
    (DRIVE + '--agent={tmp}/empty', r'in .*trainers\.train_controller'),
    (
      DRIVE + '--agent={kept}/without_m',
      'no exported weights of a mdn_rnn in ',
    ),
    (DRIVE + '--agent={kept}/finished', r'did you mean .*ed/agent\?'),
    (DRIVE + '--agent=~nosuchuser/agent', 'home directory'),
    (DRIVE + '--track=100000', r'track=100000: .*9999'),
    (DRIVE + '--output_dir={tmp}/file', 'cannot write .*file'),
    (PLAY + '--agent={tmp}/none', 'no exported weights of a controller in '),
    (
      PLAY + '--agent={kept}/old --where=dream',
      'old/mdn_rnn has no start_stat',
    ),
    (PLAY + '--driver=keyboard', 'driver=keyboard'),
    (PLAY + '--track=100000', r'track=100000: .*9999'),
    (PLAY + '--where=dream --track=1', 'a dream has no track; pass --seed'),
    (PLAY + '--seed=1', '--seed is for --where=dream; pass --track'),
    (PLAY + '--temperature=0', 'temperature=0.* positive and finite'),
    (PLAY + '--temperature=nan', 'temperature=nan'),
    (ERRORS, 'has 130 transitions or more'),
    (ERRORS + '--output=/proc/none/x.json', 'cannot write /proc/none'),
    (ERRORS + '--output={tmp}', 'it is not a regular file'),
    (ERRORS + '{latents}', 'is a carracing_latents dataset, but'),
    (PAGE + '--agent={tmp}/none', 'no exported weights of a controller in '),
    (PAGE + '--output={tmp}', 'it is not a regular file'),
    (PAGE + '--output={tmp}/file/x.html', 'cannot write .*file'),
    (PAGE + '--output=', 'a path is empty; name a file or a folder'),
    ('tools.lineage', 'name one folder of a pipeline, a run, an agent'),
    ('tools.lineage {tmp}/none', 'there is no folder .*/none$'),
    ('tools.lineage {tmp}/empty', 'empty holds no run, no agent and no we'),
    ('tools.lineage {tmp}/file', 'file holds no run, no agent and no weights'),
    (
      'tools.lineage {agent} --search={tmp}/none',
      '--search=.*none is no folder',
    ),
    ('tools.lineage nothing', "no prepared dataset 'nothing'"),
    ('tools.lineage {vae} {vae}', 'name one folder'),
    ('tools.report', 'name one folder of a pipeline, a run or an a'),
    (REPORT + '{vae}', 'name one folder of a pipeline, a run or an a'),
    ('tools.report {tmp}/none', 'there is no folder .*/none$'),
    ('tools.report {tmp}/empty', 'empty holds no run and no agent'),
    ('tools.report {tmp}/file', 'file holds no run and no agent'),
    ('tools.report ~nosuchuser/demo', 'home directory'),
    (REPORT + '--output={tmp}', 'it is not a regular file'),
    (REPORT + '--output={tmp}/file/x.html', 'cannot write .*file'),
    (REPORT + '--output=/proc/none/x.html', 'cannot write /proc/none'),
    ('tools.compare_runs', 'name the folders'),
    ('tools.compare_runs {tmp}/empty', 'holds no finished run'),
    ('tools.compare_runs {tmp}/file', 'holds no finished run'),
    (DEMO + '--config.num_tracks=0', 'config: num_tracks: .*, not 0'),
    (DEMO + '--config.episodes=3', "unknown config key 'episodes'"),
    (DEMO + '--config.vae_step=3', "did you mean 'vae_steps'"),
    (DEMO + '--config.max_steps=many', 'config.max_steps=many: invalid lit'),
    (DEMO + '--config={tmp}/file', 'config=.*/file: Overriding config is not'),
    (DEMO + '--output_dir={tmp}/file', 'cannot write .*file'),
    (DEMO + 'surplus', "unexpected argument 'surplus'"),
    ('tools.demo --output_dir --config.seed=1', 'output_dir has no value, for'),
    (ROUNDS + '--config.random_episodes=1', 'random_episodes: .*, not 1'),
    (ROUNDS + '--config.selection_tracks=24', 'selection_tracks: .*multiple o'),
    (ROUNDS + '--config.noise=0,x', 'config.noise=0,x: could not convert'),
    (DREAM_ROUNDS + '--config.rounds=-1', 'config: rounds: .*, not -1'),
    (DREAM_ROUNDS + '--config.noise_share=2', 'noise_share: .* to 1, not 2'),
    (DREAM_ROUNDS + '--config.noise=0', 'noise_share: there is no noise'),
    (ROUNDS + '--config.num_tracks=10001', 'num_tracks: .* 10000, not 10001'),
    (ROUNDS + '--config.interventions=0,2', 'interventions: .* to 1, not 2'),
    (ROUNDS + '--config.random_interventions=-1', 'random_inter.*, not -1'),
    (ROUNDS + '--config.speed_penalty=nan', 'speed_penalty: '),
    (FIDELITY + '--drivers=x', 'drivers=x'),
    (FIDELITY + '--num_tracks=1', 'num_tracks=1'),
    (FIDELITY + '--max_steps=60', 'max_steps=60'),
    (FIDELITY + '--noise=-1', 'noise=-1'),
    (FIDELITY + '--noise=nan', 'noise=nan'),
    (FIDELITY + '--temperature=inf', 'temperature=inf'),
    (FIDELITY + '--mdn_rnn={tmp}/none', 'no exported weights of a mdn_rnn'),
    (FIDELITY + '--mdn_rnn={vae}', 'weights of a vae, not of a mdn_rnn'),
    (FIDELITY + '--output_dir={tmp}/file', 'cannot write .*file'),
    ('tools.benchmark --output_dir={tmp}/out --only=none', 'no stage none'),
  ],
)
def test_tools(line, message, command, places):
  module, *arguments = line.format(**places).split(' ')
  done = command(module, *filter(None, arguments))
  assert_one_line(done, message)
  assert not list(places['tmp'].glob('out/*'))


EVALUATE = 'tools.evaluate --output_dir={tmp}/out '


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ('--agent={agent} --policy=uniform', 'pass --agent or --policy, not both'),
    ('--agent=', 'agent=: leave it out, or name a folder'),
    ('--agent={tmp}/none', 'no exported weights of a controller in .*none'),
    (
      '--agent={kept}/without_c',
      'no exported .*without_c/controller; train one',
    ),
    ('--agent={kept}/mixed', 'mixed/controller was trained with another vae'),
    ('--policy=', "a policy is one of .*, not ''"),
    ('--policy=expert', "a policy is one of .*, not 'expert'"),
    ('--policy=straight_ahead:gas=2', 'gas=2'),
    ('--policy=uniform --episodes=10001', '10,000 .* tracks, not 10,001'),
    (
      '--policy=uniform --tracks=selection --episodes=1001',
      '1,000 selection tracks, not 1,001',
    ),
    ('--policy=uniform --output_dir={tmp}/file', 'cannot write .*file'),
    ('--policy=uniform --output_dir=/proc/none', 'cannot write /proc/none'),
    ('--policy=uniform --output_dir=~nosuchuser/x', 'home directory'),
    ('--policy=uniform --output_dir=gs://b/x', 'gs://b/x is an address'),
    ('--agent=gs://b/x', 'gs://b/x is an address'),
  ],
)
def test_evaluate(flags, message, command, places):
  module, *arguments = (EVALUATE + flags).format(**places).split()
  assert_one_line(command(module, *arguments), message)
  assert not (places['tmp'] / 'out').exists()


RECORD = 'tools.record --output={tmp}/out/log.npz '


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ('', 'pass one of --agent, --policy and --driver'),
    ('--agent={agent} --policy=uniform', 'pass one of --agent, --policy'),
    ('--policy=uniform --driver=keyboard', 'pass one of --agent, --policy'),
    ('--agent={tmp}/none', 'no exported weights of a controller in .*none'),
    ('--agent={kept}/mixed', 'mixed/controller was trained with another vae'),
    ('--agent={agent} --noise=', "--noise=: could not convert .* float: ''"),
    ('--agent={agent} --noise=0,x', "--noise=0,x: could .* to float: 'x'"),
    ('--agent={agent} --noise=0,-1', 'noise: .* or equal to 0, not -1'),
    ('--agent={agent} --noise=nan', 'noise: .*a finite number, not nan'),
    ('--agent={agent} --noise=1e9', 'noise: .* or equal to 10, not 1000000000'),
    ('--policy=uniform --noise=0.3', '--noise and --noise_share need --agent'),
    ('--policy=uniform --noise_share=0.5', '--noise_share need --agent'),
    ('--agent={agent} --noise_share=0', 'noise_share: .* than 0, not 0.0'),
    ('--agent={agent} --noise_share=1.5', 'noise_share: .* to 1, not 1.5'),
    ('--agent={agent} --noise_share=nan', 'noise_share: .*a finite number'),
    ('--agent={agent} --noise_share=x', '--noise_share=x: could not convert'),
    (
      '--agent={agent} --noise_share=0.5',
      '--noise_share=0.5: noise_share: there is no noise',
    ),
    (
      '--agent={agent} --noise=0,0 --noise_share=0.5',
      'noise_share: there is no noise',
    ),
    ('--policy=expert', "a policy is one of .*, not 'expert'"),
    ('--policy=uniform --interventions=0_1', "=0_1: '0_1' is no number"),
    ('--policy=uniform --interventions=x', "=x: could not .* float: 'x'"),
    ('--policy=uniform --interventions=0,2', 'interventions: .* to 1, not 2'),
    ('--agent={agent} --interventions=-1', 'interventions: .* to 0, not -1'),
    ('--agent={agent} --interventions=nan', 'interventions: .*finite number'),
    ('--driver=keyboard --interventions=0.1', 'leave out .*--interventions'),
    ('--policy=keyboard', "a policy is one of .*, not 'keyboard'"),
    ('--policy=uniform --episodes=1', 'episodes=1'),
    ('--policy=uniform --simulator=torcs', "a simulator is .*, not 'torcs'"),
    ('--driver=keyboard --simulator=sketched', 'leave out --simulator'),
    ('--driver=keyboard --num_workers=2', 'leave out --simulator'),
    ('--policy=uniform --output={tmp}', 'it is not a regular file'),
    (
      '--policy=uniform --output={tmp}/file',
      r'file is no action log[^;]*; choose another --output$',
    ),
    ('--policy=uniform --output=/proc/none/x', 'cannot write /proc/none'),
    ('--policy=uniform --output=~nosuchuser/x', 'home directory'),
    ('--policy=uniform --output=gs://b/x', 'gs://b/x is an address'),
    ('--agent=gs://b/x', 'gs://b/x is an address'),
  ],
)
def test_record(flags, message, command, places):
  module, *arguments = (RECORD + flags).format(**places).split()
  assert_one_line(command(module, *arguments), message)
  assert not list(places['tmp'].glob('out/*'))


def test_recording_through_a_link_is_refused(command, places):
  other, out = places['tmp'] / 'other', places['tmp'] / 'out'
  other.mkdir()
  out.mkdir()
  (out / '.log.npz.unfinished').symlink_to(other)
  module, *arguments = RECORD.format(**places).split()
  done = command(module, *arguments, '--policy=uniform', '--episodes=2')
  assert_one_line(done, 'it is a link to')
  assert not list(other.iterdir())


JUNK = ('', '{', 'null', '{"a": 1}', '[' * 9999, '\x00')


@pytest.mark.parametrize('content', JUNK, ids=repr)
@pytest.mark.parametrize(
  'file', ['config.json', 'run.json', 'metrics.json', 'checkpoints', 'weights']
)
def test_damaged_run_folder(file, content, places):
  run = copy_of(places['vae_run'], file, places['tmp'] / 'damaged')
  if file == 'checkpoints':  # A finished run does not read them.
    (run / 'metrics.json').unlink()
  (run / file).write_text(content)
  with error_of_one_line(f'damaged/{file}|damaged holds a run with a diff'):
    train_vae.train(tiny_vae_config(), run, str(places['data']))


@pytest.mark.parametrize('content', JUNK, ids=repr)
@pytest.mark.parametrize(
  'file', ['dataset_info.json', 'features.json', 'metadata.json']
)
def test_damaged_document_of_a_dataset(file, content, places):
  source = places['data'] / 'carracing_rollouts' / 'tiny' / VERSION
  folder = copy_of(source, file, places['tmp'] / 'damaged')
  (folder / file).write_text(content)
  with error_of_one_line(f'damaged/{file}'):
    verify.verify(str(folder), None)


def test_pipes_are_not_read(places):
  source = places['data'] / 'carracing_rollouts' / 'tiny' / VERSION
  for folder, file, read in (
    (places['vae'], 'config.json', lambda x: weights.load(x, 'vae')),
    (places['vae'], 'model.safetensors', lambda x: weights.load(x, 'vae')),
    (places['vae_run'], 'run.json', run_documents.read_run),
    (source, 'metadata.json', lambda x: loader.episodes(str(x))),
  ):
    copy = copy_of(folder, file, places['tmp'] / f'pipe_{file}')
    os.mkfifo(copy / file)
    # Nothing writes into them: whoever reads waits for ever.
    with error_of_one_line(f'{file}.*regular|metadata.json is missing'):
      read(copy)


@pytest.mark.parametrize('name', ['controller', 'controller_dream'])
def test_memory_is_compared_before_a_run(name, world, tmp_path, monkeypatch):
  sysconf = os.sysconf
  monkeypatch.setattr(
    os, 'sysconf', lambda x: 1 if x == 'SC_PHYS_PAGES' else sysconf(x)
  )
  config = importlib.import_module(f'trainers.configs.{name}').get_config()
  with error_of_one_line('too little memory: .* take .* GB, and this machine'):
    train_controller.train(config, tmp_path / 'run', world.vae, world.mdn_rnn)
  assert not (tmp_path / 'run' / 'config.json').exists()


def test_memory_that_jax_lacks_is_told_in_a_line():
  with pytest.raises(jax.errors.JaxRuntimeError) as caught:
    jnp.zeros((2**20, 2**30)).block_until_ready()
  line = command_line.line_of(caught.value)
  assert line and re.match('Error: there is too little memory: RESOUR.*', line)


@pytest.mark.parametrize(
  ('variables', 'line', 'message'),
  [
    ({'JAX_PLATFORMS': 'cuda'}, DREAM, 'JAX cannot use JAX_PLATFORMS=cuda '),
    ({'JAX_PLATFORMS': 'x'}, DREAM, 'cannot use .*=x .*; unset it, or install'),
    ({'JAX_ENABLE_X64': 'maybe'}, DREAM, "value 'maybe' .*; unset the vari"),
    ({'JAX_NUM_CPU_DEVICES': 'x'}, DREAM, 'flag jax_num_cpu_.*; unset the va'),
    ({'JAX_NUM_CPU_DEVICES': '0'}, DREAM, 'cannot use JAX_NUM_CPU_DEVICES=0 '),
    ({'XLA_FLAGS': '--xla_cpu_enable_fast_math'}, DREAM, 'FLAGS turns fast m'),
    ({'PYTHONIOENCODING': 'ascii'}, 'tools.lineage {vae}', None),
    ({'MPLBACKEND': 'x'}, VIEW, None),
  ],
)
def test_variable(variables, line, message, places):
  done = subprocess.run(
    [sys.executable, '-m', *line.format(**places).split()],
    capture_output=True,
    text=True,
    cwd=PROJECT,
    env={**os.environ, **variables},
  )
  if message is None:
    assert done.returncode == 0, done.stderr
  else:
    assert_one_line(Done(done.returncode, done.stdout, done.stderr), message)


def test_name_that_is_not_utf_8(command, places):
  folder = places['tmp'] / os.fsdecode(b'ct\xffrl')
  shutil.copytree(places['agent'], folder)
  assert_one_line(
    command('tools.report', str(folder)),
    r'^.{,200}ct.udcffrl.{,200} is not in UTF-8; rena',
  )


def test_log_has_no_control_characters(command, places):
  folder = places['tmp'] / 'a\x1b[2Jb' / 'weights'
  folder.mkdir(parents=True)
  (folder / weights.FILE).touch()
  (folder / 'config.json').write_text('{')
  done = command(
    'tools.lineage', str(places['agent']), f'--search={places["tmp"]}'
  )
  assert 'a\ufffd[2Jb' in done.stderr and '\x1b' not in done.stderr


_THREAD = """
import threading
from carracing_data import command_line
def write():
  open('/dev/full', 'wb', buffering=0).write(b'x')
def main(_):
  thread = threading.Thread(target=write)
  thread.start()
  thread.join()
command_line.run(main)
"""


def test_what_ends_a_thread_is_told_in_a_line():
  done = subprocess.run(
    [sys.executable, '-c', _THREAD], capture_output=True, text=True, cwd=PROJECT
  )
  assert done.stderr == 'Warning: cannot write: No space left on device\n'


@pytest.mark.parametrize('closed', ['2>&-', '>&- 2>&-', '<&- >&- 2>&-'])
def test_streams_may_be_closed(closed, tmp_path):
  line = (
    f'{sys.executable} -m tools.record --policy=uniform --simulator=sketched'
    f' --episodes=2 --max_steps=5 --output={tmp_path}/log.npz {closed}'
  )
  assert subprocess.run(['bash', '-c', line], cwd=PROJECT).returncode == 0
  assert len(action_log.read(tmp_path / 'log.npz').actions) == 2


def test_line_has_no_control_characters():
  line = command_line.line_of(errors.UserError('a\x1b[31mb\nc'))
  assert line == 'Error: a\ufffd[31mb c'


def set_path(content, path, value):
  *parents, last = path
  for key in parents:
    content = content[key]
  content[last] = value


@pytest.mark.parametrize(
  ('file', 'path', 'value'),
  [
    ('dataset_info.json', ['configName'], '../../x'),
    ('dataset_info.json', ['configName'], 'other'),
    ('dataset_info.json', ['name'], 'mnist'),
    ('dataset_info.json', ['version'], '1.2'),
    ('dataset_info.json', ['fileFormat'], 'tfrecord'),
    ('dataset_info.json', ['splits', 0, 'filepathTemplate'], '../{SPLIT}'),
    ('dataset_info.json', ['splits', 0, 'shardLengths'], ['9' * 400]),
    ('dataset_info.json', ['splits', 0, 'name'], 'test'),
    ('dataset_info.json', ['splits'], []),
    ('features.json', ['pythonClassName'], 'os.system'),
    (
      'features.json',
      ['featuresDict', 'features', 'action', 'tensor', 'dtype'],
      'int64',
    ),
    (
      'features.json',
      ['featuresDict', 'features', 'action', 'tensor', 'encoding'],
      'zlib',
    ),
    (
      'features.json',
      ['featuresDict', 'features', 'action', 'tensor', 'shape', 'dimensions'],
      ['9' * 15],
    ),
    ('features.json', ['featuresDict', 'features', 'extra'], {}),
    ('metadata.json', ['config', 'simulator'], '../torcs'),
    ('metadata.json', ['config', 'max_steps'], 10**30),
    ('metadata.json', ['splits', 'train', 'num_steps'], -1),
    ('metadata.json', ['splits', 'train', 'episode_steps'], 'many'),
    ('metadata.json', ['files_sha256'], {'../x': '0' * 64}),
    ('metadata.json', ['splits', 'train', 'num_terminated'], None),
    ('metadata.json', ['splits', 'train', 'shard_lengths'], None),
    ('metadata.json', ['name'], 'carracing_rollouts/tiny:0.0.0'),
    ('metadata.json', ['name'], 'carracing_rollouts/tiny:9999.0.0'),
    ('metadata.json', ['splits', 'train', 'num_terminated'], 2**39),
    ('metadata.json', ['splits', 'train', 'return_min'], 900.0),
    ('metadata.json', ['splits', 'train', 'return_mean'], 1e308),
    ('metadata.json', ['splits', 'train', 'return_std'], -5.0),
    ('metadata.json', ['packages', 'numpy'], '2.4.6 (patched)'),
    ('dataset_info.json', ['splits', 0, 'numBytes'], '-5'),
  ],
)
def test_edited_document_of_a_dataset(file, path, value, places):
  from carracing_data import metadata

  source = places['data'] / 'carracing_rollouts' / 'tiny' / VERSION
  folder = copy_of(source, file, places['tmp'] / 'edited')
  content = json.loads((source / file).read_text())
  set_path(content, path, value)
  if file == 'metadata.json':
    # As a third-party builder might write it.
    content = json_documents.sealed(content, metadata.SEAL)
  json_documents.write(folder / file, content)
  with error_of_one_line(f'edited/{file}'):
    verify.verify(str(folder), None)
  if file == 'metadata.json':
    with error_of_one_line(f'edited/{file}'):
      loader.episodes(str(folder))
  else:  # Nothing that this project reads relies on it.
    assert len(loader.episodes(str(folder))) == 3


@pytest.mark.parametrize('size', ['1', '16', '32.9', True, float('inf')])
def test_edited_size_of_latents(size, places):
  source = places['data'] / 'carracing_latents' / 'tiny' / LATENTS_VERSION
  folder = copy_of(source, 'features.json', places['tmp'] / 'edited')
  content = json.loads((source / 'features.json').read_text())
  for name in 'mean', 'logvar':
    tensor = content['featuresDict']['features'][name]['tensor']
    tensor['shape']['dimensions'][-1] = size
  (folder / 'features.json').write_text(json.dumps(content))
  with error_of_one_line('has no latent_size|differ in their number of steps'):
    latents_loader.episodes(str(folder))[0]


@pytest.mark.parametrize('content', JUNK, ids=repr)
@pytest.mark.parametrize('file', ['config.json', 'model.safetensors'])
def test_damaged_weights(file, content, places):
  folder = copy_of(places['vae'], file, places['tmp'] / 'damaged')
  (folder / file).write_text(content)
  with error_of_one_line(f'damaged/{file} is damaged'):
    weights.load(folder, 'vae')


@pytest.mark.parametrize('content', JUNK, ids=repr)
def test_damaged_pipeline(content, command, places):
  out = places['tmp'] / 'out'
  out.mkdir()
  (out / 'pipeline.json').write_text(content)
  done = command('tools.demo', f'--output_dir={out}')
  assert_one_line(done, 'pipeline.json is damaged: .*; if not, choose another')


def test_pipeline_of_earlier_code(command, places):
  out = places['tmp'] / 'out'
  out.mkdir()
  (out / 'two_rounds.json').write_text('{}')
  done = command('tools.two_rounds', f'--output_dir={out}')
  assert_one_line(done, 'begun by an earlier version .*choose another --outp')


@pytest.mark.parametrize('content', JUNK, ids=repr)
def test_damaged_browser(content, command, places):
  out = places['tmp'] / 'out'
  out.mkdir()
  (out / 'dataset.json').write_text(content)
  module, *arguments = (BROWSE + '{tiny}').format(**places).split()
  done = command(module, *arguments)
  assert_one_line(done, 'dataset.json is damaged: .*; choose another')


@pytest.mark.parametrize('content', JUNK, ids=repr)
def test_damaged_evaluation(content, command, places):
  out = places['tmp'] / 'out'
  out.mkdir()
  (out / 'evaluation.json').write_text(content)
  done = command('tools.evaluate', '--policy=uniform', f'--output_dir={out}')
  assert_one_line(done, 'evaluation.json is damaged: .*; delete it')


@pytest.mark.parametrize(
  'name', ['weights', 'agent', 'agent/vae', 'weights.unfinished']
)
def test_folder_of_somebody_else_in_a_workdir(name, world, tmp_path):
  file = tmp_path / name / 'thesis.txt'
  file.parent.mkdir(parents=True)
  file.write_text('a thesis')
  with error_of_one_line('would replace .*thesis.txt is not one of their'):
    train_controller.train(
      tiny_controller_config(), tmp_path, world.vae, world.mdn_rnn
    )
  with error_of_one_line('thesis.txt is not one of their files'):
    weights.gather(tmp_path / name.partition('.')[0], {'vae': world.vae})
  assert file.read_text() == 'a thesis'
  assert not (tmp_path / 'run.json').exists()


@pytest.mark.parametrize(
  'name',
  [
    'index.html',
    'page_2.html',
    'statistics.md',
    'contact_sheet.png',
    'videos/train-0.mp4',
  ],
)
def test_browser_keeps_what_somebody_else_made(name, places, tmp_path):
  mine = tmp_path / 'out' / name
  mine.parent.mkdir(parents=True)
  mine.write_text('mine')
  with error_of_one_line(f'{name} is not of this program'):
    pages.make('carracing_rollouts/tiny', str(places['data']), tmp_path / 'out')
  assert mine.read_text() == 'mine'


def test_browser_writes_no_videos_through_a_link(places, tmp_path):
  (tmp_path / 'other').mkdir()
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'videos').symlink_to(tmp_path / 'other')
  with error_of_one_line('videos: it is a link to'):
    pages.make('carracing_rollouts/tiny', str(places['data']), tmp_path / 'out')
  assert not list((tmp_path / 'other').iterdir())


@pytest.mark.parametrize(
  ('path', 'value', 'message'),
  [
    (['summary', 'mean'], 1e6, 'the summary is not that of the drives'),
    (['summary', 'episodes'], 100_000, 'the summary is not that of the'),
    (['summary', 'standard_error'], None, 'the summary is not that of the'),
    (['summary', 'laps_completed'], 1.0, 'the summary is not that of the'),
    (['drives', 0, 'return'], 1e308, 'drives.0.return: .* equal to 1000'),
    (['drives', 0, 'return'], -1e30, 'no car gets -1e.30 in '),
    (['drives', 0, 'steps'], -(10**30), 'drives.0.steps: '),
    (['drives', 0, 'steps'], 1001, 'in 1001 steps of at most 1000'),
    (['drives'], [], 'drives: .* at least 1 item'),
  ],
)
def test_evaluation_that_contradicts_itself(path, value, message, tmp_path):
  source = agent.PRETRAINED / track_scores.FILE
  file = tmp_path / track_scores.FILE
  content = json.loads(source.read_text())
  set_path(content, path, value)
  # Anybody can seal a document.
  json_documents.write(file, json_documents.sealed(content, 'sha256'))
  with error_of_one_line(f'evaluation.json is damaged: .*{message}.*; make it'):
    track_scores.read(file)


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('jax_enable_x64', True),
    ('jax_default_prng_impl', 'rbg'),
    ('jax_random_seed_offset', 1),
    ('jax_threefry_partitionable', False),
    ('jax_numpy_dtype_promotion', 'strict'),
  ],
)
def test_setting_of_jax_that_changes_results(name, value, world, tmp_path):
  config = tiny_vae_config(), tmp_path / 'run', str(world.data_dir)
  usual = getattr(jax.config, name)
  jax.config.update(name, value)
  try:
    for function, *arguments in (
      (train_vae.train, *config),
      (agent.load,),
      (weights.load, world.vae, 'vae'),
      (gymnasium.make, 'models.dream_environment:CarRacingDream-v0'),
    ):
      with error_of_one_line(f'{name} is not .*unset {name.upper()}, or'):
        function(*arguments)
  finally:
    jax.config.update(name, usual)
  assert not (tmp_path / 'run').exists()


def test_setting_of_jax_in_the_environment(world, tmp_path):
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'trainers.train_vae', f'--workdir={tmp_path}/r'),
      *('--config.dataset=carracing_rollouts/tiny', '--config.num_steps=1'),
      f'--data_dir={world.data_dir}',
    ],
    cwd=PROJECT,
    env={**os.environ, 'JAX_ENABLE_X64': '1'},
    capture_output=True,
    text=True,
    check=False,
  )
  done = Done(done.returncode, done.stdout, done.stderr)
  assert_one_line(done, 'jax_enable_x64 is not False.*unset JAX_EN')


POINTER = 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n'


@pytest.mark.parametrize('file', ['config.json', 'model.safetensors'])
def test_weights_that_git_lfs_has_not_fetched(file, places):
  folder = copy_of(places['vae'], file, places['tmp'] / 'cloned')
  (folder / file).write_text(POINTER)
  with error_of_one_line(f'cloned/{file} is a pointer.*git lfs pull'):
    weights.load(folder, 'vae')


@pytest.fixture
def copied(places):
  """A copy of a dataset, and the first of its shards."""
  name = Path('carracing_rollouts', 'tiny', VERSION)
  # Unlike those of pytest, this folder can be opened to other users.
  with tempfile.TemporaryDirectory() as root:
    Path(root).chmod(0o755)
    folder = shutil.copytree(places['data'] / name, Path(root, name))
    yield folder, min(folder.glob('*-train.array_record-*'))


def read_and_verify(folder):
  """Yields what reads a dataset, as functions."""
  yield lambda: loader.episodes(str(folder))[0]
  yield lambda: verify.verify(str(folder), None)


def test_shards_that_git_lfs_has_not_fetched(copied):
  folder, shard = copied
  shard.write_text(POINTER)
  for read in read_and_verify(folder):
    with error_of_one_line(f'{shard.name} is a pointer.*git lfs pull'):
      read()


@contextlib.contextmanager
def as_another_user():
  if os.geteuid():
    pytest.skip('this needs root, who can become another user')
  os.seteuid(65_534)
  try:
    yield
  finally:
    os.seteuid(0)


def test_files_of_another_user_are_not_told_as_damaged(copied):
  folder, shard = copied
  for read in read_and_verify(folder):
    read()  # Imports what another user may not read.
    shard.chmod(0o600)
    with error_of_one_line(f'{shard.name}: Permission denied; check'):
      with as_another_user():
        read()


@pytest.mark.parametrize('depth', [0, 1, 2])
def test_dataset_of_another_user_is_not_told_as_missing(depth, copied):
  folder, _ = copied
  [folder, *folder.parents][depth].chmod(0o700)
  with error_of_one_line('Permission denied; check its permissions'):
    with as_another_user():
      prepared_dataset.find('carracing_rollouts/tiny', folder.parents[2])


_READS = """
import os, resource, sys
from carracing_data import command_line
from carracing_rollouts import loader
def main(argv):
  len(loader.episodes(argv[1])[0].reward)  # What is imported opens files, too.
  limit = 24 + max(map(int, os.listdir('/proc/self/fd')))
  hard = limit if argv[2] == 'hard' else 10 * limit
  resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
  print(sum(len(x.reward) for x in loader.episodes(argv[1])), 'steps')
command_line.run(main, takes_arguments=True)
"""


@pytest.mark.parametrize('limit', ['soft', 'hard'])
def test_more_shards_than_files_that_may_be_open(limit, tmp_path):
  config = rollouts_builder.RolloutsConfig(
    name='many', num_episodes=60, max_steps=2, simulator='sketched'
  )
  builder = rollouts_builder.Builder(
    data_dir=tmp_path, config=config, num_workers=1
  )
  builder.download_and_prepare()
  done = subprocess.run(
    [sys.executable, '-c', _READS, builder.data_dir, limit],
    capture_output=True,
    text=True,
    check=False,
  )
  if limit == 'soft':
    assert done.stdout == '162 steps\n', done.stderr
  else:
    done = Done(done.returncode, done.stdout, done.stderr)
    assert_one_line(done, 'Too many open files; raise the limit .*ulimit -n')


_WAITS = """
import sys, time
from carracing_data import command_line
def main(argv):
  try:
    print('working', flush=True)
    time.sleep(600)
  finally:
    print('tidied', flush=True)
command_line.run(main)
"""


def stopped_in_a_line(number, arguments, printed, **options):
  """Stops Python once it has printed something; returns what it prints then."""
  process = subprocess.Popen(
    [sys.executable, *arguments],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    **options,
  )
  assert process.stdout.readline() == printed
  process.send_signal(number)
  rest, said = process.communicate()
  assert process.returncode == 128 + number
  assert said == f'Stopped by {number.name}; {command_line.CONTINUE}.\n'
  return rest


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_told_in_a_line(number):
  rest = stopped_in_a_line(number, ['-c', _WAITS], 'working\n')
  assert rest == 'tidied\n'


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_imports_is_told_in_a_line(number, tmp_path):
  (tmp_path / 'etils.py').write_text(
    'print("importing", flush=True)\nimport time; time.sleep(600)\n'
  )
  stopped_in_a_line(
    number,
    ['-m', 'tools.datasets'],
    'importing\n',
    cwd=PROJECT,
    env={**os.environ, 'PYTHONPATH': f'{tmp_path}:{DATASETS}'},
  )


def test_programs_of_others_keep_their_signals(tmp_path):
  program = tmp_path / 'tools' / 'mine.py'
  program.parent.mkdir()
  (program.parent / '__init__.py').touch()
  program.write_text(
    'import signal\nfrom carracing_data import command_line\n'
    'for number in signal.SIGINT, signal.SIGTERM:\n'
    '  assert signal.getsignal(number) is not command_line.end_at_once\n'
  )
  for arguments in (
    ['-m', 'tools.mine'],
    ['-m', 'pdb', '-c', 'c', 'tools/mine.py'],
  ):
    subprocess.run(
      [sys.executable, *arguments],
      cwd=tmp_path,
      env={**os.environ, 'PYTHONPATH': str(DATASETS)},
      input='q\n',
      text=True,
      timeout=60,
      check=True,
    )
