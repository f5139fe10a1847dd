import functools

import jax
import jax.numpy as jnp
from models import mdn_rnn
import numpy as np
import pytest
from scipy import special
from scipy import stats

FLOAT32_MAX = float(np.finfo(np.float32).max)


def random_mixture(seed, *batch, components=5, size=3, per_dimension=False):
  keys = jax.random.split(jax.random.key(seed), 3)
  logits = jax.random.normal(
    keys[0], (*batch, components, size if per_dimension else 1)
  )
  return mdn_rnn.Mixture(
    logits=jax.nn.log_softmax(logits, axis=-2),
    mean=jax.random.normal(keys[1], (*batch, components, size)),
    log_std=0.5 * jax.random.normal(keys[2], (*batch, components, size)),
  )


@functools.cache
def init(model):
  z, action = jnp.zeros((1, 2, 32)), jnp.zeros((1, 2, 3))
  return model.init(jax.random.key(0), z, action, model.initial_carry(1))


def random_sequence(*shape):
  """Returns latent vectors and actions, [*shape, 32] and [*shape, 3]."""
  inputs = jax.random.normal(jax.random.key(1), (*shape, 35))
  return inputs[..., :32], inputs[..., 32:]


@pytest.fixture(scope='module', params=[False, True])
def model_and_variables(request):
  model = mdn_rnn.MDNRNN(per_dimension=request.param)
  return model, init(model)


@pytest.mark.parametrize(('per_dimension', 'outputs'), [(0, 325), (1, 480)])
def test_number_of_outputs(per_dimension, outputs):
  model = mdn_rnn.MDNRNN(per_dimension=bool(per_dimension))
  variables = init(model)
  assert variables['params']['mixture']['bias'].shape == (outputs,)


@pytest.mark.parametrize('per_dimension', [False, True])
def test_density_integrates_to_one(per_dimension):
  mixture = random_mixture(0, size=2, per_dimension=per_dimension)
  axis = np.linspace(-12, 12, 601, dtype=np.float32)
  grid = np.stack(np.meshgrid(axis, axis), axis=-1)
  mixtures = jax.tree.map(lambda x: x[None, None], mixture)
  density = np.exp(mixtures.log_prob(grid), dtype=np.float64)
  cell = (axis[1] - axis[0]) ** 2
  np.testing.assert_allclose(density.sum() * cell, 1, rtol=1e-4)


def test_shared_density_equals_scipy():
  mixture = random_mixture(1, 4)
  z = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
  logits, mean, log_std = map(np.asarray, mixture)
  expected = [
    special.logsumexp(
      [
        logits[i, k, 0]
        + stats.multivariate_normal(
          mean[i, k], np.diag(np.exp(2 * log_std[i, k]))
        ).logpdf(z[i])
        for k in range(5)
      ]
    )
    for i in range(4)
  ]
  np.testing.assert_allclose(mixture.log_prob(z), expected, rtol=1e-5)


def test_per_dimension_density_equals_scipy():
  mixture = random_mixture(2, 4, per_dimension=True)
  z = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
  logits, mean, log_std = map(np.asarray, mixture)
  components = stats.norm(mean, np.exp(log_std)).logpdf(z[:, None])
  expected = special.logsumexp(logits + components, axis=1).sum(-1)
  np.testing.assert_allclose(mixture.log_prob(z), expected, rtol=1e-5)


@functools.partial(jax.jit, static_argnums=0)
def nll_and_gradients(model, variables, z, action, targets):
  def mean_nll(*arguments):
    variables, z, action, targets = arguments
    prediction, _ = model.apply(
      variables, z, action, model.initial_carry(len(z))
    )
    return mdn_rnn.nll(prediction.mixture, targets).mean()

  return jax.value_and_grad(mean_nll, argnums=(0, 1, 2, 3))(
    variables, z, action, targets
  )


@pytest.mark.parametrize('scale', [0, 1e4, 1e20, FLOAT32_MAX])
def test_nll_and_gradients_are_finite_for_every_finite_input(
  model_and_variables, scale
):
  z, action = (scale * jnp.sign(x) for x in random_sequence(2, 3))
  value, gradients = nll_and_gradients(*model_and_variables, z, action, -z)
  assert np.isfinite(value)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))


@pytest.mark.parametrize('scale', [1e4, 1e20, FLOAT32_MAX])
def test_extreme_outputs_of_the_network_are_finite(model_and_variables, scale):
  model, variables = model_and_variables
  params = variables['params']
  signs = jnp.sign(
    jax.random.normal(jax.random.key(0), params['mixture']['bias'].shape)
  )
  mixture = {**params['mixture'], 'bias': scale * signs}
  z, action = jnp.ones((2, 3, 32)), jnp.ones((2, 3, 3))
  value, gradients = nll_and_gradients(
    model, {'params': {**params, 'mixture': mixture}}, z, action, z
  )
  assert np.isfinite(value)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients[0]))


def test_sequence_equals_steps(model_and_variables):
  model, variables = model_and_variables
  z, action = random_sequence(2, 7)
  carry = model.initial_carry(2)
  whole, final_carry = model.apply(variables, z, action, carry)

  for t in range(7):
    step, carry = model.apply(
      variables, z[:, t : t + 1], action[:, t : t + 1], carry
    )
    for x, y in zip(step.mixture, whole.mixture):
      np.testing.assert_allclose(x[:, 0], y[:, t], rtol=1e-5, atol=1e-6)

  for x, y in zip(carry, final_carry):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('per_dimension', [False, True])
def test_samples_have_the_moments_of_the_mixture(per_dimension):
  mixture = random_mixture(3, per_dimension=per_dimension)
  many = jax.tree.map(
    lambda x: jnp.broadcast_to(x, (100_000, *x.shape)), mixture
  )
  z = np.asarray(many.sample(jax.random.key(0)))
  weights = np.exp(mixture.logits)
  mean = (weights * mixture.mean).sum(0)
  second = (weights * (mixture.mean**2 + np.exp(2 * mixture.log_std))).sum(0)
  np.testing.assert_allclose(z.mean(0), mean, atol=0.02)
  np.testing.assert_allclose(z.var(0), second - mean**2, rtol=0.03)


def test_without_noise_samples_are_the_means_of_drawn_components():
  mixture = random_mixture(4)
  many = jax.tree.map(
    lambda x: jnp.broadcast_to(x, (10_000, *x.shape)), mixture
  )
  z = np.asarray(many.sample(jax.random.key(0), noise=0))
  of_component = (z[:, None] == np.asarray(mixture.mean)).all(-1)
  assert (of_component.sum(1) == 1).all()
  weights = np.exp(mixture.logits)[:, 0]
  np.testing.assert_allclose(of_component.mean(0), weights, atol=0.03)
  # A share of the noise scales the distance from the mean.
  full, half = (
    many.sample(jax.random.key(0), noise=noise) for noise in (1, 0.5)
  )
  np.testing.assert_allclose(half - z, (full - z) / 2, atol=1e-5)


@pytest.mark.parametrize('per_dimension', [False, True])
def test_expectation_equals_numpy(per_dimension):
  mixture = random_mixture(5, 4, per_dimension=per_dimension)
  logits, mean, _ = map(np.asarray, mixture)
  expected = np.zeros((4, 3))
  for i, dimension in np.ndindex(4, 3):
    weights = special.softmax(logits[i, :, dimension if per_dimension else 0])
    expected[i, dimension] = np.dot(weights, mean[i, :, dimension])
  np.testing.assert_allclose(mixture.expectation(), expected, rtol=1e-5)


def test_shared_components_bind_the_dimensions_together():
  mixture = mdn_rnn.Mixture(
    logits=jnp.log(jnp.full((1000, 2, 1), 0.5)),
    mean=jnp.broadcast_to(jnp.array([[-5.0, -5.0], [5.0, 5.0]]), (1000, 2, 2)),
    log_std=jnp.full((1000, 2, 2), -3.0),
  )
  z = mixture.sample(jax.random.key(0))
  np.testing.assert_array_equal(z[:, 0] > 0, z[:, 1] > 0)
  assert 400 < (z[:, 0] > 0).sum() < 600


def test_low_temperature_takes_the_mean_of_the_likeliest_component():
  mixture = random_mixture(4, 6)
  z = mixture.sample(jax.random.key(0), temperature=1e-6)
  likeliest = mixture.logits.argmax(axis=-2)[:, 0]
  np.testing.assert_allclose(
    z, mixture.mean[np.arange(6), likeliest], atol=0.01
  )


def test_bfloat16_is_close_to_float32(model_and_variables):
  model, variables = model_and_variables
  z, action = random_sequence(4, 30)
  targets = jax.random.normal(jax.random.key(2), (4, 30, 32))

  def value_and_gradients(model):
    def mean_nll(variables):
      (mixture, *_), carry = model.apply(
        variables, z, action, model.initial_carry(4)
      )
      assert {x.dtype for x in (*mixture, *carry)} == {jnp.dtype('float32')}
      return mdn_rnn.nll(mixture, targets).mean()

    return jax.tree.leaves(jax.jit(jax.value_and_grad(mean_nll))(variables))

  half = value_and_gradients(model.clone(dtype=jnp.bfloat16))
  for x, y in zip(half, value_and_gradients(model), strict=True):
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(x, y, atol=0.03 * np.abs(y).max())


def test_outcome_losses_are_those_of_their_distributions():
  model = mdn_rnn.MDNRNN(predict_outcomes=True)
  z, action = random_sequence(2, 5)
  targets = jax.random.normal(jax.random.key(2), (2, 5, 32))
  reward = jax.random.normal(jax.random.key(3), (2, 5))
  terminal = jnp.zeros((2, 5), bool).at[1, 4].set(True)
  variables = init(model)
  prediction, _ = model.apply(variables, z, action, model.initial_carry(2))
  loss = mdn_rnn.loss(prediction, targets, reward, terminal)

  p = 1 / (1 + np.exp(-np.float64(prediction.termination_logit)))
  np.testing.assert_allclose(
    loss.termination_nll, -np.log(np.where(terminal, p, 1 - p)), rtol=1e-5
  )
  np.testing.assert_allclose(
    loss.reward_error, (prediction.reward.mean() - reward) ** 2, rtol=1e-5
  )
  np.testing.assert_allclose(
    loss.total,
    loss.nll + (loss.reward_nll + loss.termination_nll) / 32,
    rtol=1e-6,
  )
  np.testing.assert_array_equal(
    loss.nll, mdn_rnn.nll(prediction.mixture, targets)
  )


def test_reward_distribution_learns_the_mean_of_rare_rewards():
  # As in the simulator: a tile every fifth step, and one exit from the field.
  rewards = np.full(1000, -0.1, np.float32)
  rewards[::5] += 3.2
  rewards[7] = -100.0
  logits = jnp.zeros(mdn_rnn._REWARD_BINS)

  @jax.grad
  def gradient(logits):
    many = jnp.broadcast_to(logits, (1000, len(logits)))
    return mdn_rnn.RewardDistribution(many).nll(rewards).mean()

  # The gradient is softmax - target, so the best probabilities are the target.
  target = jax.nn.softmax(logits) - gradient(logits)
  best = mdn_rnn.RewardDistribution(jnp.log(jnp.maximum(target, 1e-30)))
  np.testing.assert_allclose(best.mean(), rewards.mean(), rtol=1e-3)


@pytest.mark.parametrize('reward', [-500.0, -100.0, -0.1, 0.0, 3.3, 400.0])
def test_reward_nll_is_least_where_the_expectation_is_the_reward(reward):
  bins = np.asarray(mdn_rnn._reward_bins())
  assert bins[0] < -100.1 and bins[-1] > 20
  clipped = np.clip(reward, bins[0], bins[-1])
  right = min(max(int((bins < clipped).sum()), 1), len(bins) - 1)
  share = (clipped - bins[right - 1]) / (bins[right] - bins[right - 1])
  probabilities = np.zeros(len(bins))
  probabilities[[right - 1, right]] = 1 - share, share
  best = mdn_rnn.RewardDistribution(jnp.log(jnp.asarray(probabilities) + 1e-30))
  np.testing.assert_allclose(best.mean(), clipped, rtol=1e-5, atol=1e-6)
  terms = probabilities[probabilities > 0]
  entropy = -(terms * np.log(terms)).sum()
  np.testing.assert_allclose(best.nll(jnp.float32(reward)), entropy, atol=1e-4)


def test_temperature_zero_is_the_mean_of_the_likeliest_component():
  mixture = random_mixture(4, 6)
  z = mixture.sample(jax.random.key(0), temperature=0)
  likeliest = mixture.logits.argmax(axis=-2)[:, 0]
  np.testing.assert_array_equal(z, mixture.mean[np.arange(6), likeliest])
