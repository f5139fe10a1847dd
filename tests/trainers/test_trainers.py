import functools
import json
import shutil

from carracing_data import errors
from carracing_data import prepared_dataset
from carracing_latents import (
  carracing_latents_dataset_builder as latents_builder,
)
from carracing_latents import loader as latents_loader
from carracing_rollouts import loader as rollouts_loader
from conftest import LATENTS_VERSION
from conftest import tiny_mdn_rnn_config
from conftest import tiny_vae_config
from conftest import VERSION
import imageio.v3 as imageio
import jax
from models import mdn_rnn
from models import start_states
from models import weights
import numpy as np
import pytest
import safetensors.numpy
from tensorboard.backend.event_processing import plugin_event_accumulator
from tools import compare_runs
from trainers import mdn_rnn_evaluation
from trainers import optimizer
from trainers import run_documents
from trainers import train_mdn_rnn
from trainers import train_vae

TRAINERS = {
  'vae': (train_vae, tiny_vae_config),
  'mdn_rnn': (train_mdn_rnn, tiny_mdn_rnn_config),
}


def weights_of(workdir):
  return safetensors.numpy.load_file(workdir / 'weights' / 'model.safetensors')


@pytest.mark.parametrize('name', TRAINERS)
def test_another_config_in_the_same_workdir_is_refused(name, world):
  trainer, get_config = TRAINERS[name]
  config = get_config()
  config.learning_rate = 0.5
  with pytest.raises(
    run_documents.RunError, match=r'learning_rate is 0\.\d+ there and'
  ):
    trainer.train(config, getattr(world, name).parent, str(world.data_dir))


def test_finished_run_of_earlier_code_stays_finished(world, tmp_path):
  workdir = shutil.copytree(world.vae.parent, tmp_path / 'run')
  path = workdir / 'config.json'
  config = json.loads(path.read_text())
  # Hyperparameters that V and M had once.
  config |= {'ema_decay': 0.0, 'early_stop_evaluations': 0}
  path.write_text(json.dumps(config))
  before = path.read_text()
  train_vae.train(tiny_vae_config(), workdir, str(world.data_dir))
  assert path.read_text() == before
  path.write_text(json.dumps(config | {'ema_decay': 0.9}))
  with pytest.raises(run_documents.RunError, match='ema_decay is 0.9 there'):
    train_vae.train(tiny_vae_config(), workdir, str(world.data_dir))


def test_metrics_say_how_much_was_learnt(world):
  vae = run_documents.finished_metrics(world.vae.parent)
  assert vae.step in (3, 6)
  assert vae.weights_sha256 == weights.load(world.vae, 'vae').sha256
  assert vae.validation.keys() == {
    'loss',
    'reconstruction',
    'kl',
    'active_dimensions',
    'posterior_mean_spread',
    'posterior_std',
    'mean_frame_baseline',
  }
  mdn_rnn = run_documents.finished_metrics(world.mdn_rnn.parent).validation
  assert mdn_rnn.keys() == {
    'nll',
    'nll_1_50',
    'nll_51_200',
    'reward_nll',
    'reward_error',
    'termination_nll',
    'nll_floor',
    'nll_no_change',
    'reward_error_constant',
    'termination_nll_constant',
  }
  assert mdn_rnn['nll_floor'] < mdn_rnn['nll_no_change']


def test_tensorboard_shows_metrics_and_reconstructions(world):
  events = plugin_event_accumulator.EventAccumulator(str(world.vae.parent))
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
  } <= set(tags)


def test_no_change_baseline_and_floor_are_expectations():
  rng = np.random.default_rng(0)
  mean = rng.normal(size=(50, 2)).astype(np.float32)
  logvar = rng.normal(-1, 0.3, size=(50, 2)).astype(np.float32)
  references = mdn_rnn_evaluation.nll_baselines(
    [{'mean': mean, 'logvar': logvar}]
  )

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


def exploding(config):
  """A run that is finite in the first step alone."""
  config.learning_rate = 1.0
  return config


def test_loss_that_is_not_finite_stops_the_run_and_keeps_the_batch(
  world, tmp_path
):
  config = exploding(tiny_vae_config())
  config.update(num_steps=40, checkpoint_every_steps=1)
  with pytest.raises(run_documents.RunError, match='NaN or infinite in step'):
    train_vae.train(config, tmp_path, str(world.data_dir))
  [path] = tmp_path.glob('not_finite_step_*.npz')
  frames = np.load(path)['batch']
  assert frames.shape == (16, 64, 64, 3) and frames.dtype == np.uint8
  steps = [int(p.name) for p in (tmp_path / 'checkpoints').iterdir()]
  assert max(steps) < int(path.stem.split('_')[3])
  assert not (tmp_path / 'weights').exists()


def worsening(config):
  """A run whose first evaluation is the best: Adam overshoots after it."""
  config.update(
    learning_rate=2e-3,
    kl_weight=0.0,
    num_steps=3,
    eval_every_steps=1,
    checkpoint_every_steps=1,
  )
  return config


def test_the_best_parameters_are_exported_not_the_last(world, tmp_path):
  config = worsening(tiny_vae_config())
  train_vae.train(config, tmp_path, str(world.data_dir))
  metrics = run_documents.finished_metrics(tmp_path)
  last = max(int(p.name) for p in (tmp_path / 'checkpoints').iterdir())
  assert (metrics.step, last) == (1, 3)

  # The exported weights are those of the metrics, not the last ones.
  exported = weights.load(tmp_path / 'weights', 'vae')
  assert exported.sha256 == metrics.weights_sha256
  assert exported.training['step'] == metrics.step
  evaluate = train_vae.evaluation(config, validation_frames(world))
  found = evaluate(exported.variables['params'])
  assert found.loss == pytest.approx(metrics.validation['loss'], rel=1e-5)


def validation_frames(world):
  return rollouts_loader.spread_frames(
    'carracing_rollouts/tiny', count=40, data_dir=world.data_dir
  )


def test_a_kill_before_the_metrics_loses_nothing(world, tmp_path):
  config = worsening(tiny_vae_config())
  train_vae.train(config, tmp_path, str(world.data_dir))
  expected = weights_of(tmp_path)
  last = max(int(p.name) for p in (tmp_path / 'checkpoints').iterdir())
  (tmp_path / 'metrics.json').unlink()
  shutil.rmtree(tmp_path / 'weights')

  train_vae.train(config, tmp_path, str(world.data_dir))

  steps = [int(p.name) for p in (tmp_path / 'checkpoints').iterdir()]
  assert max(steps) == last
  for key, value in expected.items():
    np.testing.assert_array_equal(weights_of(tmp_path)[key], value)


def test_continued_run_is_the_same_run_at_weights_and_biases(
  command, world, tmp_path
):
  pytest.importorskip('wandb')  # In an extra, which continuous integration has.
  for num_steps in 1, 2:
    done = command(
      'trainers.train_vae',
      f'--workdir={tmp_path}',
      f'--data_dir={world.data_dir}',
      '--wandb_project=carracing',
      '--config.dataset=carracing_rollouts/tiny',
      '--config.batch_size=16',
      '--config.cosine_decay=False',
      f'--config.num_steps={num_steps}',
      environment={'WANDB_MODE': 'offline', 'WANDB_SILENT': 'true'},
    )
    assert done.status == 0, done.stderr
  starts = [x.name for x in (tmp_path / 'wandb').glob('offline-run-*')]
  assert len(starts) == 2
  assert len({name.rpartition('-')[2] for name in starts}) == 1


def test_run_folder_explains_itself(world):
  workdir = world.vae.parent
  run = json.loads((workdir / 'run.json').read_text())
  [source] = run['sources'].values()
  assert source['name'] == f'carracing_rollouts/tiny:{VERSION}'
  assert source['sha256'].keys() == {'train', 'validation'}
  [start] = run['starts']
  assert start['packages']['jax'] == jax.__version__
  assert start['device'] == 'cpu' and start['devices'] == 1
  assert '4,348,547' in (workdir / 'parameters.txt').read_text()
  shown = workdir / 'pictures' / 'frames_above_reconstructions.png'
  assert imageio.imread(shown).shape == (2 * 64, 8 * 64, 3)


def test_runs_are_compared_side_by_side(world, tmp_path):
  config = tiny_mdn_rnn_config()
  config.hidden_size = 8
  a, b, c = world.mdn_rnn.parent, tmp_path / 'b', tmp_path / 'c'
  train_mdn_rnn.train(config, b, str(world.data_dir))
  head, _, first, second = compare_runs.compare([a, b]).splitlines()
  assert head.startswith('| run | hidden_size | best step | nll |')
  assert first.startswith(f'| {a} | 256 |')
  assert second.startswith(f'| {b} | 8 |')
  config.seed = 1
  train_mdn_rnn.train(config, c, str(world.data_dir))
  [*_, last] = compare_runs.compare([a, b, c]).splitlines()
  nll = [run_documents.finished_metrics(x).validation['nll'] for x in (b, c)]
  assert last.startswith(
    f'| mean ± sd of 2 seeds |  | 8 |  | {np.mean(nll):.4g} ±'
    f' {np.std(nll, ddof=1):.3g} |'
  )
  with pytest.raises(run_documents.RunError, match='holds no finished run'):
    compare_runs.compare([a, tmp_path])
  path = b / 'config.json'
  content = json.loads(path.read_text())
  # As earlier code left it.
  unused = {'ema_decay': 0.0, 'early_stop_evaluations': 0}
  path.write_text(json.dumps({**content, **unused}))
  [*_, last] = compare_runs.compare([b, c]).splitlines()
  assert 'mean ± sd of 2 seeds' in last
  copy = shutil.copytree(c, tmp_path / 'copy')
  other = json.loads((copy / 'config.json').read_text()) | {'seed': 2}
  (copy / 'config.json').write_text(json.dumps(other))
  [*_, last] = compare_runs.compare([b, c, copy]).splitlines()
  assert 'mean ± sd of 2 seeds' in last  # The same weights count once.
  # As it is while a finished run is trained on.
  path.write_text(json.dumps({**content, 'num_steps': 99}))
  with pytest.raises(
    run_documents.RunError, match='of 99 steps it has finished'
  ):
    compare_runs.compare([a, b])


def test_validation_does_not_depend_on_the_seed(world):
  params = weights.load(world.vae, 'vae').variables['params']
  frames = validation_frames(world)
  [episode] = rollouts_loader.episodes(
    'carracing_rollouts/tiny', split='validation', data_dir=world.data_dir
  )
  spread = np.linspace(0, 70, 40).round().astype(int)
  np.testing.assert_array_equal(frames, episode.observation[spread])
  scalars = []
  for seed in 0, 1:
    config = tiny_vae_config()
    config.seed = seed
    scalars.append(train_vae.evaluation(config, frames)(params).scalars)
  assert scalars[0] == scalars[1]

  # Every batch gets its own noise, so repeating the frames changes the mean.
  twice = np.concatenate([frames] * 5)
  found = train_vae.evaluation(tiny_vae_config(), twice)(params).scalars
  assert found['reconstruction'] != scalars[0]['reconstruction']


def test_m_trains_on_from_exported_weights(world, tmp_path):
  config = tiny_mdn_rnn_config()
  config.update(num_steps=2, eval_every_steps=2, learning_rate=0.0)
  data = str(world.data_dir)
  train_mdn_rnn.train(config, tmp_path / 'same', data, str(world.mdn_rnn))
  sha256 = weights.describe(world.mdn_rnn).weights_sha256
  assert (
    weights.describe(tmp_path / 'same' / 'weights').weights_sha256 == sha256
  )
  run = run_documents.read_run(tmp_path / 'same')
  assert run is not None
  assert run.sources['initial_weights'].sha256 == {'weights': sha256}

  config = tiny_mdn_rnn_config()
  train_mdn_rnn.train(config, tmp_path / 'on', data, str(world.mdn_rnn))
  on = str(tmp_path / 'on' / 'weights')
  assert weights.describe(on).weights_sha256 != sha256
  # Weights of another run are other weights.
  config.update(num_steps=2, eval_every_steps=2, learning_rate=0.0)
  with pytest.raises(run_documents.RunError, match='initial_weights'):
    train_mdn_rnn.train(config, tmp_path / 'same', data, on)
  config.hidden_size = 128
  with pytest.raises(run_documents.RunError, match='hidden_size is 256'):
    train_mdn_rnn.train(config, tmp_path / 'c', data, on)


def test_v_trains_on_several_datasets(world, tmp_path):
  names = [f'carracing_rollouts/{x}' for x in ('tiny', 'straight_ahead')]
  config = tiny_vae_config()
  config.dataset = '+'.join(names)
  train_vae.train(config, tmp_path, str(world.data_dir))
  run = run_documents.read_run(tmp_path)
  assert run is not None and run.model == 'vae'
  versions = [f'{name}:{VERSION}' for name in names]
  assert [x.name for x in run.sources.values()] == versions
  exported = weights.load(tmp_path / 'weights', 'vae')
  assert exported.training['dataset'] == ' + '.join(versions)
  alone = weights.describe(world.vae).weights_sha256
  assert exported.sha256 != alone


def test_m_trains_on_several_datasets(world, tmp_path):
  names = [f'carracing_latents/{x}' for x in ('tiny', 'straight_ahead')]
  config = tiny_mdn_rnn_config()
  config.dataset = '+'.join(names)
  train_mdn_rnn.train(config, tmp_path, str(world.data_dir))
  run = run_documents.read_run(tmp_path)
  assert run is not None
  versions = [f'{name}:{LATENTS_VERSION}' for name in names]
  assert [x.name for x in run.sources.values()] == versions
  exported = weights.load(tmp_path / 'weights', 'mdn_rnn')
  assert exported.training['dataset'] == ' + '.join(versions)
  # One episode of each is for validation.
  latents = [prepared_dataset.find(name, world.data_dir) for name in names]
  [validation] = mdn_rnn_evaluation.whole_episodes(latents)
  assert sorted(validation.mask.sum(1)) == [70, 286]
  # And start states come from both.
  states = start_states.load(tmp_path / 'weights')
  for name in names:
    episodes = latents_loader.episodes(
      name, split='train', data_dir=world.data_dir
    )
    means = np.concatenate([np.float16(x['mean']) for x in episodes])
    assert (states.mean[:, None] == means).all(-1).any()


def test_a_folder_may_have_a_plus_in_its_name(world, tmp_path):
  latents = prepared_dataset.find(
    'carracing_latents/tiny', world.data_dir
  ).folder
  folder = shutil.copytree(latents, tmp_path / 'a+b' / 'latents')
  config = tiny_mdn_rnn_config()
  config.dataset = str(folder)
  train_mdn_rnn.train(config, tmp_path / 'run', None)
  config.dataset = 'carracing_latents/tiny+carracing_latents/tiny'
  with pytest.raises(errors.DatasetError, match='tiny:.* is named twice'):
    train_mdn_rnn.train(config, tmp_path / 'twice', str(world.data_dir))


def test_latents_of_different_vaes_do_not_mix(world, tmp_path):
  v = weights.load(world.vae, 'vae')
  params = jax.tree.map(lambda x: x * 1.01, v.variables['params'])
  config = weights.describe(world.vae).config
  weights.save(tmp_path / 'vae', 'vae', config, params, v.training)
  rollouts = prepared_dataset.find('carracing_rollouts/tiny', world.data_dir)
  latents_builder.Builder(
    data_dir=tmp_path,
    config=latents_builder.LatentsConfig(
      name='other',
      rollouts=str(rollouts.folder),
      vae=str(tmp_path / 'vae'),
    ),
  ).download_and_prepare()
  other = prepared_dataset.find('carracing_latents/other', tmp_path).folder
  config = tiny_mdn_rnn_config()
  config.dataset = f'carracing_latents/tiny+{other}'
  with pytest.raises(run_documents.RunError, match='by another VAE'):
    train_mdn_rnn.train(config, tmp_path / 'run', str(world.data_dir))
  config.dataset = str(other)
  with pytest.raises(run_documents.RunError, match='trained with another V'):
    train_mdn_rnn.train(config, tmp_path / 'run', None, str(world.mdn_rnn))
  assert not (tmp_path / 'run').exists()


def test_m_is_judged_by_whole_episodes_with_one_carry(world):
  latents = prepared_dataset.find('carracing_latents/tiny', world.data_dir)
  validation = mdn_rnn_evaluation.whole_episodes([latents])
  assert [batch.mask.sum() for batch in validation] == [70]
  again = mdn_rnn_evaluation.whole_episodes([latents])
  np.testing.assert_array_equal(validation[0].z, again[0].z)

  loaded = weights.load(world.mdn_rnn, 'mdn_rnn')
  config = tiny_mdn_rnn_config()
  config.window_steps = 5  # Must have no influence.
  evaluate = mdn_rnn_evaluation.evaluation(config, validation, {})
  scalars = evaluate(loaded.variables['params']).scalars
  carry, nll = loaded.model.initial_carry(1), []
  for t in range(70):
    z, action, next_z = (x[:, t : t + 1] for x in validation[0][:3])
    prediction, carry = loaded.model.apply(loaded.variables, z, action, carry)
    nll.append(mdn_rnn.nll(prediction.mixture, next_z).item())
  assert scalars['nll'] == pytest.approx(np.mean(nll), rel=1e-4)
  assert scalars['nll_1_50'] == pytest.approx(np.mean(nll[:50]), rel=1e-4)
  assert scalars['nll_51_200'] == pytest.approx(np.mean(nll[50:]), rel=1e-4)
  assert 'nll_201_1000' not in scalars


def test_masked_steps_do_not_count(world):
  config = tiny_mdn_rnn_config()
  state = train_mdn_rnn.create_train_state(config, 32)
  step = jax.jit(functools.partial(train_mdn_rnn.train_step, config))
  batch = next(
    iter(
      latents_loader.windows(
        'carracing_latents/tiny',
        batch_size=4,
        window_steps=24,
        data_dir=world.data_dir,
      )
    )
  )
  mask = batch.mask.copy()
  mask[:, 10:] = False
  # Later steps cannot reach earlier ones, so garbage there changes nothing.
  garbage = [x.copy() for x in batch[:-1]]
  for x in garbage:
    x[:, 10:] = 1
  states, metrics = zip(
    *(
      step(state, latents_loader.Windows(*content, mask))
      for content in (batch[:-1], garbage)
    )
  )
  for x, y in zip(*map(jax.tree.leaves, (states[0].params, states[1].params))):
    np.testing.assert_allclose(x, y, atol=1e-7)
  a, b = (float(m.compute()['nll']) for m in metrics)
  assert a == pytest.approx(b, rel=1e-6)


@pytest.mark.parametrize(
  ('cosine_decay', 'num_steps', 'expected'),
  [
    (True, 110, {0: 0, 5: 0.1, 10: 0.2, 60: 0.1, 110: 0}),
    (False, 110, {0: 0, 5: 0.1, 10: 0.2, 60: 0.2, 110: 0.2}),
    (True, 8, {0: 0, 4: 0.2, 6: 0.1, 8: 0}),  # Warms up for half of the run.
    (False, 1, {0: 0.2}),
  ],
)
def test_learning_rate_warms_up_and_falls(cosine_decay, num_steps, expected):
  config = tiny_vae_config()
  config.update(
    learning_rate=0.2,
    warmup_steps=10,
    cosine_decay=cosine_decay,
    num_steps=num_steps,
  )
  found = {step: optimizer.learning_rate(config)(step) for step in expected}
  assert found == pytest.approx(expected, abs=1e-6)


# Loss and norm of the gradient in the first and the third step.
GOLDEN = {
  'vae': ((1049.48926, 7.45888), (1048.76978, 6.76378)),
  'mdn_rnn': ((1.39477229, 0.09732292), (1.24109447, 0.09380054)),
}


@pytest.mark.parametrize('name', GOLDEN)
def test_first_steps_are_golden(name):
  """Detects a change of the model, the loss or the optimizer."""
  rng = np.random.default_rng(0)
  if name == 'vae':
    config, key = tiny_vae_config(), 'loss'
    config.cosine_decay = True
    state = train_vae.create_train_state(config)
    step = functools.partial(train_vae.train_step, config)
    batch = rng.integers(0, 256, (16, 64, 64, 3), np.uint8)
  else:
    config, key = tiny_mdn_rnn_config(), 'nll'
    config.cosine_decay = True
    state = train_mdn_rnn.create_train_state(config, 32)
    step = functools.partial(train_mdn_rnn.train_step, config)
    inputs = rng.standard_normal((4, 24, 35), np.float32)
    batch = latents_loader.Windows(
      z=inputs[..., :32],
      action=inputs[..., 32:],
      next_z=rng.standard_normal((4, 24, 32), np.float32),
      reward=rng.standard_normal((4, 24), np.float32),
      terminal=rng.random((4, 24)) < 0.1,
      mask=np.arange(24) < np.array([[24], [5], [10], [24]]),
    )
  step, found = jax.jit(step), []
  for _ in range(3):
    state, metrics = step(state, batch)
    scalars = metrics.compute()
    found.append((float(scalars[key]), float(scalars['gradient_norm'])))
  # Processors round differently; Adam's first steps, which follow the sign of
  # a gradient, amplify it.
  np.testing.assert_allclose(found[0], GOLDEN[name][0], rtol=1e-4)
  np.testing.assert_allclose(found[2], GOLDEN[name][1], rtol=1e-3)


def test_v_learns_more_than_the_best_constant_frame(world):
  config = tiny_vae_config()
  config.update(num_steps=80, warmup_steps=5)
  frames = validation_frames(world)[:16]
  state = train_vae.create_train_state(config)
  step = jax.jit(functools.partial(train_vae.train_step, config))
  for _ in range(80):
    state, _ = step(state, frames)
  scalars = train_vae.evaluation(config, frames)(state.params).scalars
  assert scalars['reconstruction'] < scalars['mean_frame_baseline']


def test_m_learns_more_than_no_change():
  """Uses a sequence without noise: z turns by the same angle in every step."""
  config = tiny_mdn_rnn_config()
  config.update(num_steps=60, warmup_steps=5, hidden_size=64)
  phase = np.arange(25) * 0.5 + np.arange(4)[:, None]
  z = np.stack([np.sin(phase), np.cos(phase)], axis=-1).astype(np.float32)
  batch = latents_loader.Windows(
    z=z[:, :-1],
    action=np.zeros((4, 24, 3), np.float32),
    next_z=z[:, 1:],
    reward=np.zeros((4, 24), np.float32),
    terminal=np.zeros((4, 24), bool),
    mask=np.ones((4, 24), bool),
  )
  references = mdn_rnn_evaluation.nll_baselines(
    [
      {'mean': of_episode, 'logvar': np.full_like(of_episode, -20)}
      for of_episode in z
    ]
  )
  state = train_mdn_rnn.create_train_state(config, 2)
  step = jax.jit(functools.partial(train_mdn_rnn.train_step, config))
  for _ in range(60):
    state, metrics = step(state, batch)
  assert metrics.compute()['nll'] < references['nll_no_change'] - 0.5


def test_validation_that_is_not_finite_is_an_error(world, tmp_path):
  config = exploding(tiny_vae_config())
  config.num_steps = 1
  with pytest.raises(errors.UserError, match='validation at step 1 has'):
    train_vae.train(config, tmp_path, str(world.data_dir))
  assert not (tmp_path / 'weights').exists()
  assert not (tmp_path / 'metrics.json').exists()
