import subprocess
import sys

from conftest import tiny_mdn_rnn_config
from conftest import tiny_vae_config
import numpy as np
import pytest
import safetensors.numpy
from tensorboard.backend.event_processing import event_accumulator
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
  assert mdn_rnn.keys() == {'nll', 'nll_floor', 'nll_no_change'}
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
