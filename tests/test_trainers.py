import functools
import json
import subprocess
import sys

from conftest import tiny_mdn_rnn_config
from conftest import tiny_vae_config
import imageio.v3 as imageio
import jax
import numpy as np
import pytest
import safetensors.numpy
from tensorboard.backend.event_processing import event_accumulator
from tools import compare_runs
from trainers import loop
from trainers import run_folder
from trainers import train_mdn_rnn
from trainers import train_vae

TRAINERS = {
  'vae': (train_vae.train_and_export, tiny_vae_config),
  'mdn_rnn': (train_mdn_rnn.train_and_export, tiny_mdn_rnn_config),
}


def weights_of(workdir):
  return safetensors.numpy.load_file(workdir / 'weights' / 'model.safetensors')


@pytest.mark.parametrize('name', TRAINERS)
def test_interrupted_run_equals_uninterrupted_run(
  name, world, tmp_path, monkeypatch
):
  train, get_config = TRAINERS[name]
  config = get_config()
  step_of_interrupt = 4  # One step after the checkpoint.

  def interrupt(progress, step, *args):
    del progress, args
    if step == step_of_interrupt:
      raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(loop.periodic_actions.ReportProgress, '__call__', interrupt)
    with pytest.raises(KeyboardInterrupt):
      train(config, tmp_path, str(world.data_dir))
  assert not (tmp_path / 'weights').exists()
  train(config, tmp_path, str(world.data_dir))

  expected = weights_of(getattr(world, name).parent)
  found = weights_of(tmp_path)
  assert found.keys() == expected.keys()
  for key, value in expected.items():
    np.testing.assert_array_equal(found[key], value, err_msg=key)


@pytest.mark.parametrize('name', TRAINERS)
def test_another_config_in_the_same_workdir_is_refused(name, world):
  train, get_config = TRAINERS[name]
  config = get_config()
  config.learning_rate = 0.5
  with pytest.raises(
    run_folder.RunError, match=r'learning_rate is 0\.\d+ there and'
  ):
    train(config, getattr(world, name).parent, str(world.data_dir))


def test_metrics_say_how_much_was_learnt(world):
  vae = run_folder.read_metrics(world.vae.parent)
  assert vae['step'] in (3, 6)
  assert vae['validation'].keys() == {
    'loss',
    'reconstruction',
    'kl',
    'active_dimensions',
    'posterior_mean_spread',
    'posterior_std',
    'mean_frame_baseline',
  }
  mdn_rnn = run_folder.read_metrics(world.mdn_rnn.parent)['validation']
  assert mdn_rnn.keys() == {
    'nll',
    'reward_error',
    'termination_nll',
    'nll_floor',
    'nll_no_change',
    'reward_error_constant',
    'termination_nll_constant',
  }
  assert mdn_rnn['nll_floor'] < mdn_rnn['nll_no_change']


def test_tensorboard_shows_metrics_and_reconstructions(world):
  events = event_accumulator.EventAccumulator(str(world.vae.parent))
  events.Reload()
  tags = events.Tags()['tensors']
  assert {
    'train/loss',
    'train/gradient_norm',
    'train/update_norm',
    'train/learning_rate',
    'train/examples_per_second',
    'train/input_wait_share',
    'validation/reconstruction',
    'validation/kl',
    'validation/frames_above_reconstructions',
    'steps_per_sec',
  } <= set(tags)


def test_no_change_baseline_and_floor_are_expectations():
  rng = np.random.default_rng(0)
  mean = rng.normal(size=(50, 2)).astype(np.float32)
  logvar = rng.normal(-1, 0.3, size=(50, 2)).astype(np.float32)
  references = train_mdn_rnn._references([{'mean': mean, 'logvar': logvar}])

  samples = mean + np.exp(logvar / 2) * rng.normal(size=(20000, 50, 2))
  change = np.diff(samples, axis=1)
  std = change.std(axis=(0, 1), mean=np.zeros((1, 1, 2)))
  no_change = 0.5 * (change / std) ** 2 + np.log(std * np.sqrt(2 * np.pi))
  np.testing.assert_allclose(
    references['nll_no_change'], no_change.mean(), rtol=1e-3
  )
  noise = (samples - mean)[:, 1:] / np.exp(logvar[1:] / 2)
  floor = 0.5 * noise**2 + logvar[1:] / 2 + 0.5 * np.log(2 * np.pi)
  np.testing.assert_allclose(references['nll_floor'], floor.mean(), rtol=1e-3)


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--config.num_step=3'], 'Did you mean "num_steps"'),
    (['--config.num_steps=many'], 'num_steps=many'),
    (['--config.dataset=carracing_rollouts/none'], 'tfds build carracing_ro'),
    (['--speed=3'], "Unknown command line flag 'speed'"),
  ],
)
def test_command_names_what_is_wrong_without_a_traceback(
  flags, message, data_dir, tmp_path
):
  done = subprocess.run(
      [
          sys.executable, '-m', 'trainers.train_vae',
          '--config=trainers/configs/vae.py', f'--workdir={tmp_path}',
          f'--data_dir={data_dir}', *flags,
      ],
      capture_output=True,
      text=True,
  )  # fmt: skip
  assert done.returncode == 1
  assert message in done.stderr
  assert 'Traceback' not in done.stderr


def test_loss_that_is_not_finite_stops_the_run_and_keeps_the_batch(
  world, tmp_path
):
  config = tiny_vae_config()
  config.update(learning_rate=1e15, num_steps=40, checkpoint_every_steps=1)
  with pytest.raises(run_folder.RunError, match='NaN or infinite in step'):
    train_vae.train_and_export(config, tmp_path, str(world.data_dir))
  [path] = tmp_path.glob('not_finite_step_*.npz')
  frames = np.load(path)['batch']
  assert frames.shape == (16, 64, 64, 3) and frames.dtype == np.uint8
  steps = [int(p.name) for p in (tmp_path / 'checkpoints').iterdir()]
  assert max(steps) < int(path.stem.split('_')[3])
  assert not (tmp_path / 'weights').exists()


def test_run_without_progress_stops_early_and_exports_the_best(
  world, tmp_path, caplog
):
  config = tiny_vae_config()
  config.update(learning_rate=0.0, num_steps=60, early_stop_evaluations=3)
  train_vae.train_and_export(config, tmp_path, str(world.data_dir))
  assert run_folder.read_metrics(tmp_path)['step'] == 3
  steps = [int(p.name) for p in (tmp_path / 'checkpoints').iterdir()]
  assert max(steps) == 12
  assert 'Validation was best at step 3, 3 evaluations ago' in caplog.text


def test_averaged_parameters_are_what_is_exported(world, tmp_path):
  config = tiny_vae_config()
  config.update(
    ema_decay=0.9,
    cosine_decay=True,
    warmup_steps=2,
    max_gradient_norm=1.0,
    random_flip=True,
    motion_weight=0.5,
    kl_warmup_steps=4,
  )
  train_vae.train_and_export(config, tmp_path, str(world.data_dir))
  state = train_vae.create_state(config)
  step = jax.jit(functools.partial(train_vae.train_step, config))
  batch = np.zeros((16, 64, 64, 3), np.uint8)
  averages = [state.averaged_params]
  for _ in range(2):
    state, _ = step(state, batch)
    averages.append(state.averaged_params)
  decay = 2 / 11  # (1 + step) / (10 + step) in step 1
  jax.tree.map(
    lambda average, before, params: np.testing.assert_allclose(
      average, decay * before + (1 - decay) * params, atol=1e-6
    ),
    averages[2],
    averages[1],
    state.params,
  )
  assert np.isfinite(run_folder.read_metrics(tmp_path)['validation']['loss'])


def test_run_folder_explains_itself(world):
  workdir = world.vae.parent
  run = json.loads((workdir / 'run.json').read_text())
  assert run['dataset']['name'] == 'carracing_rollouts/tiny/1.0.0'
  assert run['dataset']['content_sha256'].keys() == {'train', 'validation'}
  [start] = run['starts']
  assert start['packages']['jax'] == jax.__version__
  assert start['device'] == 'cpu' and start['devices'] == 1
  assert '4,348,547' in (workdir / 'parameters.txt').read_text()
  shown = workdir / 'pictures' / 'frames_above_reconstructions.png'
  assert imageio.imread(shown).shape == (2 * 64, 8 * 64, 3)


@pytest.mark.parametrize(
  ('name', 'change', 'message'),
  [
    ('vae', {'batch_size': 0}, 'batch_size=0 cannot work: it must be at least'),
    ('vae', {'dtype': 'float16'}, 'dtype=float16 cannot work: it must be'),
    ('vae', {'motion_weight': 1.5}, 'it must be from 0 to 1'),
    ('mdn_rnn', {'num_mixtures': 0}, 'num_mixtures=0'),
    ('mdn_rnn', {'learning_rate': -1.0}, 'learning_rate=-1.0'),
    ('mdn_rnn', {'window_steps': 71}, 'longest episode of .* 70 transitions'),
  ],
)
def test_impossible_config_is_named(name, change, message, world, tmp_path):
  train, get_config = TRAINERS[name]
  config = get_config()
  config.update(change)
  with pytest.raises(run_folder.RunError, match=message):
    train(config, tmp_path / 'run', str(world.data_dir))
  assert not (tmp_path / 'run').exists()


def test_runs_are_compared_side_by_side(world, tmp_path):
  config = tiny_mdn_rnn_config()
  config.hidden_size = 8
  train_mdn_rnn.train_and_export(config, tmp_path / 'b', str(world.data_dir))
  a, b = world.mdn_rnn.parent, tmp_path / 'b'
  head, _, first, second = compare_runs.compare([a, b]).splitlines()
  assert head.startswith('| run | hidden_size | best step | nll |')
  assert first.startswith(f'| {a} | 256 |')
  assert second.startswith(f'| {b} | 8 |')
  with pytest.raises(run_folder.RunError, match='holds no finished run'):
    compare_runs.compare([a, tmp_path])
