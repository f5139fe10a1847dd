import jax
import jax.numpy as jnp
from models import vae
import numpy as np
import pytest
from scipy import integrate
from scipy import stats


@pytest.fixture(scope='module')
def model_and_variables():
  model = vae.VAE()
  observation = jnp.zeros((1, 64, 64, 3), jnp.uint8)
  key = jax.random.key(0)
  return model, jax.jit(model.init)(key, observation, key)


def test_has_the_parameters_of_the_paper(model_and_variables):
  _, variables = model_and_variables
  assert sum(x.size for x in jax.tree.leaves(variables)) == 4_348_547


def test_reconstructs_frames_of_the_same_shape(model_and_variables):
  model, variables = model_and_variables
  observation = jax.random.randint(
    jax.random.key(1), (3, 64, 64, 3), 0, 256
  ).astype(jnp.uint8)
  image, posterior = jax.jit(model.apply)(
    variables, observation, jax.random.key(2)
  )
  assert image.shape == (3, 64, 64, 3)
  assert 0 <= image.min() and image.max() <= 1
  assert posterior.mean.shape == posterior.logvar.shape == (3, 32)


def test_bfloat16_is_close_to_float32(model_and_variables):
  model, variables = model_and_variables
  observation = jax.random.randint(
    jax.random.key(1), (2, 64, 64, 3), 0, 256
  ).astype(jnp.uint8)
  half = model.clone(dtype=jnp.bfloat16)
  found, expected = (
    jax.jit(m.apply)(variables, observation, jax.random.key(2))
    for m in (half, model)
  )
  for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(x, y, atol=0.03)


def loss_of(model, observation):
  def loss(variables):
    image, posterior = model.apply(variables, observation, jax.random.key(2))
    return vae.loss(image, posterior, observation).total.mean()

  return jax.jit(jax.value_and_grad(loss))


def test_all_forms_of_the_convolutions_are_the_same_function(
  model_and_variables,
):
  model, variables = model_and_variables
  observation = jax.random.randint(
    jax.random.key(1), (2, 64, 64, 3), 0, 256
  ).astype(jnp.uint8)
  found, expected = (
    loss_of(model.clone(convolution=form), observation)(variables)
    for form in ('matmul', 'lax')
  )
  for x, y in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4 * np.abs(y).max())


@pytest.mark.parametrize(
  ('form', 'platform', 'convolves'),
  [
    ('auto', 'cpu', False),
    ('auto', 'cuda', True),
    ('auto', 'tpu', True),
    ('lax', 'cpu', True),
    ('matmul', 'cuda', False),
  ],
)
def test_platform_of_the_program_chooses_the_form_of_the_convolutions(
  form, platform, convolves, model_and_variables
):
  model, variables = model_and_variables
  step = loss_of(
    model.clone(convolution=form), jnp.zeros((2, 64, 64, 3), jnp.uint8)
  )
  program = step.trace(variables).lower(lowering_platforms=(platform,))
  assert ('stablehlo.convolution' in program.as_text()) == convolves


def test_kl_is_that_of_the_definition():
  posterior = vae.Posterior(jnp.array([0.7]), jnp.array([-1.2]))
  p, q = stats.norm(0.7, np.exp(-0.6)), stats.norm()
  expected, _ = integrate.quad(
    lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), -10, 10
  )
  np.testing.assert_allclose(posterior.kl(), [expected], rtol=1e-5)


def test_samples_follow_the_posterior():
  posterior = vae.Posterior(jnp.full(20000, 2.0), jnp.full(20000, -1.0))
  z = posterior.sample(jax.random.key(0))
  np.testing.assert_allclose(z.mean(), 2, atol=0.02)
  np.testing.assert_allclose(z.std(), np.exp(-0.5), rtol=0.02)


def test_loss_is_the_sum_of_its_terms_above_the_free_nats():
  observation = jnp.zeros((2, 64, 64, 3), jnp.uint8).at[0].set(255)
  reconstruction = jnp.full((2, 64, 64, 3), 0.25)
  posterior = vae.Posterior(
    jnp.stack([jnp.zeros(32), jnp.full(32, 2.0)]), jnp.zeros((2, 32))
  )
  loss = vae.loss(reconstruction, posterior, observation, free_nats=0.5)
  pixels = 64 * 64 * 3
  np.testing.assert_allclose(
    loss.reconstruction, [pixels * 0.75**2, pixels * 0.25**2]
  )
  np.testing.assert_allclose(loss.kl, [0, 64])
  np.testing.assert_allclose(
    loss.total, loss.reconstruction + jnp.array([16, 64])
  )


def test_uint8_survives_the_way_to_float_and_back():
  values = jnp.arange(256, dtype=jnp.uint8)
  np.testing.assert_array_equal(vae.to_uint8(vae.to_float(values)), values)


def test_weights_of_the_loss():
  rng = np.random.default_rng(0)
  observation = rng.integers(0, 256, (8, 64, 64, 3), np.uint8)
  reconstruction = rng.random((8, 64, 64, 3), np.float32)
  posterior = vae.Posterior(jnp.ones((8, 4)), jnp.zeros((8, 4)))

  def total(**weights):
    return vae.loss(reconstruction, posterior, observation, **weights).total

  plain = vae.loss(reconstruction, posterior, observation, free_nats=0.0)
  kl = 4 * 0.5
  np.testing.assert_allclose(plain.kl, kl)
  np.testing.assert_allclose(plain.total, plain.reconstruction + kl, rtol=1e-6)
  np.testing.assert_allclose(
    total(kl_weight=3.0), plain.reconstruction + 3 * kl, rtol=1e-6
  )
  np.testing.assert_allclose(
    total(free_nats=1.0), plain.reconstruction + 4, rtol=1e-6
  )
