import operator

import jax
import jax.numpy as jnp
from models import mdn_rnn
from models import vae
from models import weights
from models import world_model
import numpy as np
import pytest

Z, H, B, T = 4, 8, 2, 6

# Compiled once for all tests: JAX compiles a single operation as slowly.
decode, dream, encode, imagine, observe, watch = map(
  jax.jit,
  (
    world_model.decode,
    world_model.dream,
    world_model.encode,
    world_model.imagine,
    world_model.observe,
    world_model.watch,
  ),
)


def random_model(seed, predict_outcomes=True):
  v = vae.VAE(Z)
  m = mdn_rnn.MDNRNN(Z, H, predict_outcomes=predict_outcomes)
  key = jax.random.key(0)
  frames = jnp.zeros((1, 64, 64, 3), jnp.uint8)
  z, action = jnp.zeros((1, 1, Z)), jnp.zeros((1, 1, 3))
  shapes = world_model.WorldModel(
    v,
    jax.eval_shape(v.init, key, frames, key),
    m,
    jax.eval_shape(m.init, key, z, action, m.initial_carry(1)),
  )
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: 0.1 * rng.standard_normal(x.shape, np.float32), shapes
  )


@pytest.fixture(scope='module')
def model():
  return random_model(0)


def sequence(seed=0):
  """Returns z [B, T + 1, Z] and actions [B, T, 3]."""
  z_key, action_key = jax.random.split(jax.random.key(seed))
  return (
    jax.random.normal(z_key, (B, T + 1, Z)),
    jax.random.normal(action_key, (B, T, 3)),
  )


def random_state(model):
  return watch(model, *sequence(1))


def random_frames(count):
  shape = (count, 64, 64, 3)
  return np.random.default_rng(count).integers(0, 256, shape, np.uint8)


def assert_close(found, expected):
  for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    assert x.shape == y.shape and x.dtype == y.dtype == np.float32
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_observing_step_by_step_equals_watching(model):
  z, action = sequence()
  state = world_model.initial_state(model, z[:, 0])
  assert_close(state, watch(model, z[:, :1], action[:, :0]))
  for t in range(T):
    state = observe(model, state, action[:, t], z[:, t + 1])
  assert_close(state, watch(model, z, action))


def test_predictions_of_a_sequence_are_those_of_its_steps(model):
  z, action = sequence()
  predicted = jax.jit(world_model.predict_sequence)(model, z[:, :-1], action)
  state = world_model.initial_state(model, z[:, 0])
  for t in range(T):
    prediction, carry = world_model.predict(model, state, action[:, t])
    of_step = jax.tree.map(operator.itemgetter((slice(None), t)), predicted)
    assert_close(of_step, prediction)
    state = world_model.State(z[:, t + 1], carry)


def test_carry_has_not_seen_the_z_of_its_state(model):
  z, action = sequence()
  state = watch(model, z, action)
  other = watch(model, z.at[:, -1].add(1), action)
  np.testing.assert_array_equal(state.carry, other.carry)
  np.testing.assert_array_equal(state.z, z[:, -1])


def test_imagination_is_what_m_predicts(model):
  state, action = random_state(model), jnp.ones((B, 3))
  key = jax.random.key(0)
  imagined, reward, termination = imagine(model, state, action, key, 0.0)
  prediction, carry = model.m.apply(
    model.m_variables, state.z[:, None], action[:, None], state.carry
  )
  likeliest = prediction.mixture.logits[:, 0, :, 0].argmax(-1)
  mean = prediction.mixture.mean[np.arange(B), 0, likeliest]
  assert_close(imagined, world_model.State(mean, carry))
  assert_close(reward, prediction.reward.mean()[:, 0])
  odds = np.exp(prediction.termination_logit[:, 0])
  assert_close(termination, odds / (1 + odds))
  # An imagined z updates the carry like an observed z.
  assert_close(imagined, observe(model, state, action, imagined.z))


def test_dreaming_equals_imagining_step_by_step(model):
  state, (_, action) = random_state(model), sequence()
  key = jax.random.key(5)
  dreamt = dream(model, state, action, key, 0.7)
  for t, step_key in enumerate(jax.random.split(key, T)):
    state, *outcomes = imagine(model, state, action[:, t], step_key, 0.7)
    assert_close([x[:, t] for x in dreamt], [state.z, *outcomes])


def test_model_without_outcomes_imagines_none():
  model = random_model(0, predict_outcomes=False)
  state, (_, action) = random_state(model), sequence()
  key = jax.random.key(0)
  _, *outcomes = imagine(model, state, action[:, 0], key)
  assert outcomes == [None, None]
  dreamt = dream(model, state, action, key)
  assert dreamt.z.shape == (B, T, Z)
  assert dreamt[1:] == (None, None)


@pytest.mark.parametrize(
  'function', [world_model.dream, world_model.imagine], ids=lambda f: f.__name__
)
def test_one_program_serves_all_weights_and_temperatures(model, function):
  @jax.jit
  def compiled(*args):  # A cache of its own.
    return function(*args)

  state, (_, action) = random_state(model), sequence()
  if function is world_model.imagine:
    action = action[:, 0]
  results = [
    compiled(m, state, action, jax.random.key(0), temperature)
    for m in (model, random_model(1))
    for temperature in (0.0, 0.5, 1.0)
  ]
  assert compiled._cache_size() == 1
  z = {np.asarray(jax.tree.leaves(result)[0]).tobytes() for result in results}
  assert len(z) == 6


def test_one_program_encodes_episodes_of_all_lengths(model):
  frames = random_frames(120)
  expected = encode(model, frames)
  world_model.encode_episode(random_model(1), frames[:3])
  before = world_model._encode._cache_size()
  for length in 1, 7, 50, 51, 100, 120:
    found = world_model.encode_episode(model, frames[:length])
    assert all(isinstance(x, np.ndarray) for x in found)
    assert_close(found, [x[:length] for x in expected])
  assert world_model._encode._cache_size() == before


def test_decoding_keeps_the_leading_shape(model):
  z, _ = sequence()
  frames = decode(model, z)
  assert frames.shape == (B, T + 1, 64, 64, 3)
  assert 0 <= frames.min() and frames.max() <= 1
  assert_close(frames[1, 2], decode(model, z[1, 2]))


def test_gradient_of_the_reward_reaches_all_actions_and_the_first_z(model):
  z, action = sequence()

  @jax.jit
  @jax.grad
  def gradient(z_and_action):
    z, action = z_and_action
    state = world_model.initial_state(model, z)
    dreamt = world_model.dream(model, state, action, jax.random.key(0))
    return dreamt.reward.sum()

  for x in gradient((z[:, 0], action)):
    assert np.isfinite(x).all()
    assert (np.abs(x).max(-1) > 0).all()


def test_gradient_reaches_the_weights_of_m(model):
  state, (_, action) = random_state(model), sequence()

  @jax.jit
  @jax.grad
  def gradient(model):
    return world_model.dream(model, state, action, jax.random.key(0)).z.sum()

  gradients = gradient(model)
  assert np.abs(gradients.m_variables['params']['lstm']['kernel']).max() > 0
  assert not any(np.any(x) for x in jax.tree.leaves(gradients.v_variables))


def test_mapped_over_keys_and_over_models(model):
  state, (_, action) = random_state(model), sequence()
  keys = jax.random.split(jax.random.key(0), 3)
  over_keys = jax.vmap(world_model.dream, in_axes=(None, None, None, 0))
  found = jax.jit(over_keys)(model, state, action, keys)
  for i, key in enumerate(keys):
    expected = dream(model, state, action, key)
    assert_close([x[i] for x in found], list(expected))

  models = [model, random_model(1)]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
  over_models = jax.vmap(world_model.observe, in_axes=(0, None, None, None))
  found = jax.jit(over_models)(stacked, state, action[:, 0], state.z)
  for i, of_one in enumerate(models):
    expected = observe(of_one, state, action[:, 0], state.z)
    assert_close(found.carry[1][i], expected.carry[1])


def test_model_without_m_encodes_only(model):
  alone = world_model.WorldModel(model.v, model.v_variables)
  frames = random_frames(3)
  posterior = encode(alone, frames)
  assert_close(posterior, encode(model, frames))
  with pytest.raises(ValueError, match='has no MDN-RNN'):
    world_model.initial_state(alone, posterior.mean)


def test_loaded_model_is_that_of_the_folders(world):
  model = world_model.load(world.vae, world.mdn_rnn)
  for name, variables in (
    ('vae', model.v_variables),
    (
      'mdn_rnn',
      model.m_variables,
    ),
  ):
    loaded = weights.load(getattr(world, name), name)
    jax.tree.map(np.testing.assert_array_equal, variables, loaded.variables)


def test_mdn_rnn_of_another_vae_is_refused(world, tmp_path):
  loaded = weights.load(world.vae, 'vae')
  params = jax.tree.map(lambda x: x + 1, loaded.variables['params'])
  weights.save(tmp_path / 'v', 'vae', {'latent_size': 32}, params, {})
  with pytest.raises(weights.WeightsError, match='latents of another VAE than'):
    world_model.load(tmp_path / 'v', world.mdn_rnn)


@pytest.mark.parametrize('encode', ['encode', 'encode_episode'])
@pytest.mark.parametrize(
  ('shape', 'dtype'), [((2, 64, 64, 3), np.float32), ((64, 64, 3), np.uint8)]
)
def test_only_frames_are_encoded(encode, shape, dtype):
  # Frames in 0..1 would give other latents in silence.
  with pytest.raises(ValueError, match=r'frames are .*, not uint8\[B, 64, 64'):
    getattr(world_model, encode)(random_model(0), np.zeros(shape, dtype))
