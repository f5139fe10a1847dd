import functools

from carracing_data import prepared_dataset
from carracing_data import processes
from conftest import tiny_controller_config
import jax
import ml_collections
import numpy as np
import pytest
from tools.benchmark import contest
from tools.benchmark import control
from tools.benchmark import data
from tools.benchmark import dreaming
from tools.benchmark import loaders
from tools.benchmark import mdn_rnn
from tools.benchmark import page
from tools.benchmark import simulator
from tools.benchmark import vae
from trainers.configs import base
from trainers.configs import controller as controller_config
from trainers.control import actor_critic


def prepare(amount):
  return lambda: amount


def prepare_missing():
  raise ImportError('not installed')


def prepare_broken():
  raise ValueError('broken')


def stage(*prepares):
  contenders = [contest.Contender(str(i), p) for i, p in enumerate(prepares)]
  return contest.Stage('stage', 'Stage', 'things', contenders)


def test_contenders_take_turns_and_missing_ones_have_no_rates():
  rates = contest.run(
    stage(
      functools.partial(prepare, 1.0),
      prepare_missing,
      functools.partial(prepare, 5.0),
    ),
    rounds=3,
    seconds=0.0,
  )
  assert [len(rates[name]) for name in '012'] == [3, 0, 3]
  assert all(rate > 0 for rate in rates['0'] + rates['2'])


def test_contender_that_fails_is_named():
  with pytest.raises(RuntimeError, match="contender '1' failed"):
    contest.run(stage(functools.partial(prepare, 1.0), prepare_broken), 1, 0.0)


def prepare_to_read(path):
  return lambda: float(path.read_text())


def test_data_are_made_before_contenders_read_them(tmp_path):
  path = tmp_path / 'data'
  reading = contest.Contender('reader', prepare_to_read, (path,))
  of_stage = stage()._replace(
    contenders=[reading], make_data=lambda: path.write_text('3')
  )
  assert contest.run(of_stage, 1, 0.0)['reader'][0] > 0


def test_only_stages_of_loaders_and_latents_make_data(tmp_path):
  modules = loaders, simulator, vae, mdn_rnn, control, dreaming, page
  stages = [x for module in modules for x in module.stages(tmp_path)]
  assert [x.name for x in stages if x.make_data] == [
    'frames',
    'frames_on_device',
    'windows',
    'latents',
  ]
  assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize('prepare_loader', [loaders.frames, loaders.in_memory])
def test_loaded_frames_are_counted(prepare_loader, data_dir, monkeypatch):
  monkeypatch.setattr(data, 'ROLLOUTS', 'carracing_rollouts/tiny')
  assert prepare_loader(data_dir)() == 100


def test_ratio_is_that_of_the_same_rounds():
  compared = contest.ratios([2.0, 30.0, 8.0], [1.0, 10.0, 8.0])
  assert compared == (2.0, 1.0, 3.0)


def tiny_config():
  return base.validated(tiny_controller_config(), controller_config.Config)


def test_driving_counts_the_steps_of_all_cars():
  assert (
    control.drive(tiny_config())() == 3 * 8 * 3
  )  # Cars, steps, until a checkpoint.


def test_updates_are_counted():
  assert control.update(tiny_config())() == 3


@pytest.mark.parametrize('decoded', [False, True])
def test_dreamt_steps_are_counted(decoded):
  assert dreaming.dream(2, decoded)() == 2 * 100


def test_pytorch_encodes_all_frames(world):
  pytest.importorskip('torch')
  from tools.benchmark import pytorch

  rollouts = prepared_dataset.find('carracing_rollouts/tiny', world.data_dir)
  work = pytorch.latents(rollouts.folder, 100)
  assert work() == work() == 4 * 71


def test_stable_baselines3_takes_as_many_updates():
  pytest.importorskip('stable_baselines3')
  from tools.benchmark import stable_baselines3_sac

  assert stable_baselines3_sac.updates(tiny_controller_config(), 288)() == 3


def test_pytorch_drives_on_every_core():
  pytest.importorskip('torch')
  from tools.benchmark import pytorch_control

  work = pytorch_control.drive('sketched', num_steps=3)
  assert work() == work() == 3 * processes.num_cores()


def test_pytorch_takes_the_same_updates():
  torch = pytest.importorskip('torch')
  from tools.benchmark import pytorch_control

  config = tiny_controller_config()
  config.cosine_decay = False  # Costs nothing, so PyTorch's has none.
  config = ml_collections.FrozenConfigDict(config)
  batches = control.batches(config)
  rng = np.random.default_rng(0)
  state = actor_critic.create(config, 288, 51)
  actor = jax.tree.map(
    lambda x: (x + 0.03 * rng.standard_normal(x.shape)).astype(np.float32),
    state.actor,
  )
  state = state.replace(actor=actor)
  learner = pytorch_control.Learner(config)

  def pairs():
    """Yields arrays of flax with the tensors of PyTorch that correspond."""
    layers = [
      (ours[name], getattr(theirs, name))
      for ours, theirs in (
        (state.actor, learner.actor),
        (state.average, learner.average),
      )
      for name in ('mean', 'log_std')
    ]
    for ours, theirs in zip(
      (*state.critics, *state.targets), (*learner.critics, *learner.targets)
    ):
      linear = [x for x in theirs if isinstance(x, torch.nn.Linear)]
      layers += [(ours[f'Dense_{i}'], x) for i, x in enumerate(linear)]
    for ours, theirs in layers:
      yield ours['kernel'], theirs.weight.T
      yield ours['bias'], theirs.bias

  with torch.no_grad():
    for ours, theirs in pairs():
      theirs.copy_(torch.tensor(np.array(ours)))
  for i, batch in enumerate(zip(*(map(torch.from_numpy, batches)))):
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), i)
    noise = jax.random.normal(key, (2, config.batch_size, 3))
    learner.update(type(batches)(*batch), torch.tensor(np.array(noise)))
  state, _ = actor_critic.update(config, state, batches)
  for ours, theirs in pairs():
    np.testing.assert_allclose(ours, theirs.detach(), rtol=0, atol=2e-6)
  np.testing.assert_allclose(
    state.log_entropy_weight, learner.log_temperature.detach(), rtol=1e-6
  )


def test_coordinator_collects_fake_shards(command):
  done = command(
    'tools.benchmark.coordinator', '--shards=3', '--episodes_per_shard=2'
  )
  assert done.status == 0, done.stderr
  assert done.stdout.startswith('3 shards, 6 episodes: ')
