import dataclasses
import filecmp
import json
from pathlib import Path
import shutil
import subprocess
import sys

from carracing_data import errors
from carracing_data import json_documents
from carracing_data import prepared_dataset
from carracing_latents import carracing_latents_dataset_builder as builder_lib
from carracing_latents import loader
from carracing_rollouts import loader as rollouts_loader
from conftest import LATENTS_VERSION
from conftest import PROJECT
from conftest import VERSION
import jax
from models import vae
from models import weights
import numpy as np
import pytest

NAME = 'carracing_latents/tiny'
TRANSITIONS = 3 * 70  # In the train split.


def build(world, **config):
  config = {
    'rollouts': 'carracing_rollouts/tiny',
    'vae': str(world.vae),
    **config,
  }
  builder_lib.Builder(
    data_dir=world.data_dir,
    config=builder_lib.LatentsConfig(**{'name': 'other', **config}),
  ).download_and_prepare()


def windows(world, **kwargs):
  return loader.windows(
    NAME,
    data_dir=world.data_dir,
    **{'batch_size': 4, 'window_steps': 24, **kwargs},
  )


def transitions(batches):
  """Returns (inputs, targets) of every valid transition, as bytes."""
  return [
    (x.tobytes(), y.tobytes())
    for batch in batches
    for x, y in zip(batch.inputs[batch.mask], batch.targets[batch.mask])
  ]


def mean_transitions(world):
  return [
    (np.concatenate([z, a]).tobytes(), z_next.tobytes())
    for e in loader.episodes(NAME, data_dir=world.data_dir)
    for z, a, z_next in zip(e['mean'], e['action'], e['mean'][1:])
  ]


def test_latents_are_the_encoded_frames(world):
  loaded = weights.load(world.vae, 'vae')
  for split in 'train', 'validation':
    latents = loader.episodes(NAME, split=split, data_dir=world.data_dir)
    rollouts = rollouts_loader.episodes(
      'carracing_rollouts/tiny', split=split, data_dir=world.data_dir
    )
    assert len(latents) == len(rollouts)
    for encoded, episode in zip(latents, rollouts):
      posterior = loaded.model.apply(
        loaded.variables, episode.observation, method=vae.VAE.encode
      )
      for name, value in posterior._asdict().items():
        np.testing.assert_allclose(encoded[name], value, rtol=1e-4, atol=1e-5)
      for field in dataclasses.fields(episode):
        if field.name != 'observation':
          np.testing.assert_array_equal(
            encoded[field.name], getattr(episode, field.name)
          )


def test_metadata_says_what_was_encoded_with_what(world):
  metadata, rollouts = (
    prepared_dataset.find(name, world.data_dir).metadata
    for name in (NAME, 'carracing_rollouts/tiny')
  )
  assert metadata.config == {
    'rollouts': f'carracing_rollouts/tiny:{VERSION}',
    'rollouts_content_sha256': {
      split: rollouts.splits[split].content_sha256
      for split in ('train', 'validation')
    },
    'vae_sha256': weights.load(world.vae, 'vae').sha256,
  }


def test_default_vae_is_that_of_the_project_wherever_a_build_runs(
  monkeypatch, tmp_path
):
  monkeypatch.chdir(tmp_path)
  config = builder_lib.LatentsConfig(name='x')
  assert Path(config.vae) == PROJECT / 'runs' / 'vae' / 'weights'


def test_latents_of_another_vae_are_not_taken_for_these(world, tmp_path):
  loaded = weights.load(world.vae, 'vae')
  params = loaded.variables['params']
  params['encoder']['mean']['bias'] = params['encoder']['mean']['bias'] + 1
  weights.save(tmp_path / 'v', 'vae', {'latent_size': 32}, params, {})
  with pytest.raises(errors.DatasetError, match='vae_sha256.*--overwrite'):
    build(world, name='tiny', vae=str(tmp_path / 'v'))


def test_every_transition_comes_exactly_once_an_epoch(world):
  batches = list(windows(world, num_epochs=1, sample=False))
  [first, *_] = batches
  assert first.inputs.shape == (4, 24, 35)
  np.testing.assert_array_equal(first.inputs[..., :32], first.z)
  np.testing.assert_array_equal(first.inputs[..., 32:], first.action)
  assert first.targets is first.next_z and first.next_z.shape == (4, 24, 32)
  # Inside a compiled function they are JAX arrays.
  np.testing.assert_array_equal(
    jax.jit(lambda windows: windows.inputs)(first), first.inputs
  )
  assert sorted(transitions(batches)) == sorted(mean_transitions(world))


def test_outcomes_are_those_of_the_transitions(world):
  name = 'carracing_latents/straight_ahead'  # Its episodes leave the field.
  kwargs = {'split': 'validation', 'data_dir': world.data_dir}
  [episode] = loader.episodes(name, **kwargs)
  [batch] = loader.windows(
    name,
    batch_size=8,
    window_steps=400,
    sample=False,
    num_epochs=1,
    **kwargs,
  )
  [length] = batch.mask.sum(1)
  assert batch.reward[0, length - 1] == -100
  np.testing.assert_array_equal(
    batch.reward[0, :length], episode['reward'][:-1]
  )
  terminal = np.arange(400) == length - 1
  np.testing.assert_array_equal(batch.terminal[0], terminal)
  assert not batch.reward[0, length:].any()


def test_hosts_read_other_episodes_and_draw_other_noise(world):
  noises = []
  for host, record in enumerate(loader.episodes(NAME, data_dir=world.data_dir)):
    [batch] = windows(
      world, window_steps=70, num_epochs=1, shard_index=host, shard_count=3
    )
    [z] = batch.z  # One episode per host.
    std = np.exp(record['logvar'][:70] / 2)
    noises.append((z - record['mean'][:70]) / std)
  for host, noise in enumerate(noises):
    np.testing.assert_allclose(noise.std(), 1, atol=0.05)
    others = noises[:host] + noises[host + 1 :]
    assert all(np.abs(noise - other).max() > 1 for other in others)


def test_windows_never_cross_an_episode(world):
  successors = dict(mean_transitions(world))
  for batch in windows(world, num_epochs=1, sample=False):
    for inputs, targets, mask in zip(batch.inputs, batch.targets, batch.mask):
      length = mask.sum()
      assert length > 0 and mask[:length].all()
      assert not inputs[length:].any() and not targets[length:].any()
      # Within a window, the target of a step is the latent of the next one.
      np.testing.assert_array_equal(
        targets[: length - 1], inputs[1:length, :32]
      )
      for x, y in zip(inputs[:length], targets[:length]):
        assert successors[x.tobytes()] == y.tobytes()


def test_window_longer_than_the_episodes_holds_each_of_them(world):
  batches = list(windows(world, num_epochs=1, window_steps=100))
  lengths = [n for batch in batches for n in batch.mask.sum(1)]
  assert lengths == [70, 70, 70]


def test_epochs_have_other_offsets_and_samples(world):
  stream = iter(windows(world, batch_size=1))
  epochs = []
  for _ in range(4):
    epoch, seen = [], 0
    while seen < TRANSITIONS:
      epoch.append(next(stream))
      seen += epoch[-1].mask.sum()
    assert seen == TRANSITIONS  # Epochs do not overlap.
    epochs.append(epoch)
  lengths = {tuple(sorted(int(w.mask.sum()) for w in e)) for e in epochs}
  assert len(lengths) > 1
  assert not set(transitions(epochs[0])) & set(transitions(epochs[1]))


def test_samples_follow_the_posterior(world):
  split = {'split': 'validation'}  # It has one episode.
  [record] = loader.episodes(NAME, data_dir=world.data_dir, **split)
  stream = windows(world, window_steps=70, batch_size=300, **split)
  z = next(iter(stream)).z
  std = np.exp(record['logvar'][:70] / 2)
  standardised = (z - record['mean'][:70]) / std
  np.testing.assert_allclose(standardised.mean(), 0, atol=0.01)
  np.testing.assert_allclose(standardised.std(), 1, atol=0.01)


def test_order_depends_on_the_seed_only(world):
  def order(**kwargs):
    return transitions(windows(world, num_epochs=1, **kwargs))

  assert order(num_threads=0) == order(num_threads=3)
  assert order(seed=1) != order(seed=2)


def test_iterator_resumes_exactly(world):
  iterator = iter(windows(world))
  for _ in range(5):
    next(iterator)
  state = iterator.get_state()
  expected = [next(iterator) for _ in range(8)]  # Past the end of the epoch.

  resumed = iter(windows(world))
  resumed.set_state(state)

  for batch in expected:
    for x, y in zip(next(resumed), batch):
      np.testing.assert_array_equal(x, y)


def test_number_of_cores_does_not_change_a_byte(world, tmp_path):
  shutil.copytree(
    world.data_dir / 'carracing_rollouts', tmp_path / 'carracing_rollouts'
  )
  build = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from carracing_latents import carracing_latents_dataset_builder as b
rollouts = 'carracing_rollouts/tiny'
config = b.LatentsConfig('tiny', rollouts=rollouts, vae=sys.argv[2])
b.Builder(data_dir=sys.argv[1], config=config).download_and_prepare()
"""
  subprocess.run(
    [sys.executable, '-c', build, str(tmp_path), str(world.vae)], check=True
  )
  expected, found = (
    folder / 'carracing_latents' / 'tiny' / LATENTS_VERSION
    for folder in (world.data_dir, tmp_path)
  )
  names = sorted(path.name for path in expected.iterdir())
  same, *rest = filecmp.cmpfiles(expected, found, names, shallow=False)
  assert (sorted(same), rest) == (names, [[], []])


def test_shards_of_other_platforms_are_not_mixed(world, tmp_path, monkeypatch):
  rollouts = world.data_dir / 'carracing_rollouts' / 'tiny' / VERSION
  config = builder_lib.LatentsConfig(
    name='tiny', rollouts=str(rollouts), vae=str(world.vae)
  )
  folder = tmp_path / 'carracing_latents' / 'tiny'
  folder.mkdir(parents=True)

  def jobs():
    builder = builder_lib.Builder(data_dir=tmp_path, config=config)
    return builder._jobs()['train']

  first, second, _ = jobs()
  first()
  monkeypatch.setenv('XLA_FLAGS', '--xla_cpu_max_isa=AVX2')
  with pytest.raises(
    errors.DatasetError,
    match="may round differently.*xla_flags '--xla_cpu_max_isa=AVX2', not ''",
  ):
    second()
  assert [job.result() for job in jobs()] == [None] * 3
  monkeypatch.setenv('XLA_FLAGS', '--xla_dump_to=/tmp/x')  # Changes no bit.
  assert jobs()[0].result() == first.result()


def test_metadata_names_the_platform(world):
  found = prepared_dataset.find(NAME, world.data_dir).metadata.platform
  assert found['device'] == 'cpu cpu'
  assert found['instruction_sets']
  assert found['xla_flags'] == ''


def test_latents_of_an_old_version_name_no_platform(world, tmp_path):
  new = world.data_dir / 'carracing_latents' / 'tiny' / LATENTS_VERSION
  old = shutil.copytree(new, tmp_path / 'old')
  metadata = json.loads((old / 'metadata.json').read_text())
  del metadata['platform']
  (old / 'metadata.json').write_text(json.dumps(metadata))
  with pytest.raises(errors.DatasetError, match='metadata.json was edited'):
    prepared_dataset.find(str(old))
  sealed = json_documents.sealed(metadata, 'metadata_sha256')
  (old / 'metadata.json').write_text(json.dumps(sealed))
  assert len(loader.episodes(str(old))) == 3


def test_a_processor_without_further_instruction_sets(monkeypatch):
  monkeypatch.setattr(
    np, 'show_config', lambda mode: {'SIMD Extensions': {'baseline': ['SSE3']}}
  )
  assert builder_lib._platform()['instruction_sets'] == 'SSE3'


def test_latents_that_are_not_finite_are_refused(world):
  [episode] = loader.episodes(
    'carracing_latents/tiny', split='validation', data_dir=world.data_dir
  )
  episode['mean'] = episode['mean'].copy()
  episode['mean'][3, 5] = np.nan
  with pytest.raises(errors.DatasetError, match='a/b:1 holds latents that are'):
    loader._cut(
      [episode],
      np.random.default_rng(0),
      window_steps=10,
      sample=True,
      dataset='a/b:1',
    )


def test_windows_have_steps(world):
  with pytest.raises(
    ValueError, match='window_steps is 0, not an integer from 1'
  ):
    loader.windows(NAME, batch_size=2, window_steps=0, data_dir=world.data_dir)
