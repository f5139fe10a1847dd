"""M, an MDN-RNN: (z, action) sequences → the distribution of the next z.

Ha & Schmidhuber, "World Models" (2018), section 2.2 and appendix "MDN-RNN": an
LSTM whose outputs are the parameters of a mixture of Gaussians.
"""

import functools
import math
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
from models import lstm

# Bound on the absolute logarithm of a standard deviation, approached smoothly.
MAX_ABS_LOG_STD = 7.0
# Larger differences would overflow float32 when they are squared.
_MAX_ABS_DIFFERENCE = 1e15
_REWARD_BINS = 41
_MAX_LOG_REWARD = 5.0  # log(1 + |reward|) of the outermost bins.


class Mixture(NamedTuple):
  """Mixtures of K Gaussians over vectors of Z dimensions.

  Attributes:
    logits: normalised log weights, float32 [..., K, 1] if one mixture describes
      the whole vector, [..., K, Z] if each dimension has its own.
    mean: means, float32 [..., K, Z].
    log_std: logarithms of the standard deviations, float32 [..., K, Z].
  """

  logits: jax.Array
  mean: jax.Array
  log_std: jax.Array

  def log_prob(self, z: jax.Array) -> jax.Array:
    """Returns the log density of vectors, computed in log space.

    It and its gradients are finite for every finite input.

    Args:
      z: vectors, float32 [..., Z].

    Returns:
      float32 [...], nats.
    """
    difference = jnp.clip(
      z[..., None, :] - self.mean, -_MAX_ABS_DIFFERENCE, _MAX_ABS_DIFFERENCE
    )
    log_prob = (
      -0.5 * (difference * jnp.exp(-self.log_std)) ** 2
      - self.log_std
      - 0.5 * math.log(2 * math.pi)
    )
    if self.logits.shape[-1] == 1:  # A component describes the whole vector.
      log_prob = log_prob.sum(-1, keepdims=True)
    return jax.nn.logsumexp(self.logits + log_prob, axis=-2).sum(-1)

  def sample(
    self,
    key: jax.Array,
    temperature: float | jax.Array = 1.0,
    noise: float | jax.Array = 1.0,
  ) -> jax.Array:
    """Samples vectors, float32 [..., Z].

    Args:
      key: random key.
      temperature: at least 0; divides the logits and multiplies the variances
        (section 2.2 of the paper). Below 1 the dream is more certain than the
        model, above 1 less; 0 selects the mean of the likeliest component.
      noise: factor of the standard deviations; with 0 a vector is the mean of
        the drawn component, without what V's posterior adds.
    """
    component_key, noise_key = jax.random.split(key)
    # Same order as logits / temperature + gumbel, but defined at 0.
    gumbel = jax.random.gumbel(component_key, self.logits.shape)
    component = jnp.argmax(
      self.logits + temperature * gumbel, axis=-2, keepdims=True
    )
    # A shared component has one index for all dimensions.
    component = jnp.broadcast_to(
      component, (*self.mean.shape[:-2], 1, self.mean.shape[-1])
    )
    mean, log_std = (
      jnp.take_along_axis(x, component, axis=-2)[..., 0, :]
      for x in (self.mean, self.log_std)
    )
    normal = jax.random.normal(noise_key, mean.shape)
    return mean + noise * jnp.exp(log_std) * jnp.sqrt(temperature) * normal

  def expectation(self) -> jax.Array:
    """Returns the expected vectors: weighted means, float32 [..., Z]."""
    return (jnp.exp(self.logits) * self.mean).sum(-2)


class RewardDistribution(NamedTuple):
  """Distributions over rewards, on bins that grow exponentially.

  A new tile gives 3, leaving the playing field -100, and most steps -0.1. The
  -100 would dominate the squared error of a scalar output; regression of the
  logarithm would predict its mean, which underestimates rare tiles. Bins give
  the right expectation (Hafner et al., "Mastering Diverse Domains through
  World Models" (2023), two-hot regression).

  Attributes:
    logits: float32 [..., bins].
  """

  logits: jax.Array

  def mean(self) -> jax.Array:
    """Returns the expected reward, float32 [...]."""
    return jax.nn.softmax(self.logits) @ _reward_bins()

  def nll(self, reward: jax.Array) -> jax.Array:
    """Returns the cross-entropy with a two-hot target for each reward.

    The target weights the two bins around the reward such that its expectation
    is the reward, clipped to the outermost bins.

    Args:
      reward: rewards, float32 [...].

    Returns:
      float32 [...], nats.
    """
    bins = _reward_bins()
    right = jnp.clip(jnp.searchsorted(bins, reward), 1, len(bins) - 1)
    low, high = bins[right - 1], bins[right]
    share = jnp.clip((reward - low) / (high - low), 0, 1)[..., None]
    log_prob = jax.nn.log_softmax(self.logits)
    of_left, of_right = (
      jnp.take_along_axis(log_prob, index[..., None], axis=-1)
      for index in (right - 1, right)
    )
    return -((1 - share) * of_left + share * of_right)[..., 0]


def _reward_bins() -> jax.Array:
  """Returns the rewards of the bins, float32 [bins], -147..147, dense at 0."""
  x = jnp.linspace(-_MAX_LOG_REWARD, _MAX_LOG_REWARD, _REWARD_BINS)
  return jnp.sign(x) * jnp.expm1(jnp.abs(x))


class Prediction(NamedTuple):
  """Predictions of the next z and of the outcomes of the action.

  Attributes:
    mixture: distributions of the next z, [B, T].
    reward: distributions of the reward of the action, [B, T]; None if the model
      has no such output.
    termination_logit: log odds that the episode terminates, float32 [B, T];
      None if the model has no such output.
  """

  mixture: Mixture
  reward: RewardDistribution | None = None
  termination_logit: jax.Array | None = None


class MDNRNN(nn.Module):
  """LSTM and mixture density outputs.

  Attributes:
    latent_size: Z, size of a latent vector.
    hidden_size: number of LSTM units.
    num_mixtures: K, number of Gaussians in a mixture.
    per_dimension: whether each latent dimension has its own mixture (as in the
      paper; 3·K·Z outputs) instead of one for the whole vector (K·(2·Z+1)
      outputs).
    predict_outcomes: whether to predict reward and termination, as the paper
      does for its dream environments (section 4).
    dtype: dtype of the matrix products; parameters, carry and mixtures are
      float32.
  """

  latent_size: int = 32
  hidden_size: int = 256
  num_mixtures: int = 5
  per_dimension: bool = False
  predict_outcomes: bool = False
  dtype: Any = jnp.float32

  def setup(self):
    self.lstm = lstm.LSTM(self.hidden_size, self.dtype)
    values = self.num_mixtures * self.latent_size
    logits = values if self.per_dimension else self.num_mixtures
    self.mixture = nn.Dense(
      logits + 2 * values,
      dtype=self.dtype,
      dot_general_cls=lambda: functools.partial(
        jax.lax.dot_general, preferred_element_type=jnp.float32
      ),
    )
    if self.predict_outcomes:
      self.outcomes = nn.Dense(_REWARD_BINS + 1)

  def initial_carry(self, batch_size: int) -> lstm.Carry:
    """Returns the carry before the first step: zeros."""
    zeros = jnp.zeros((batch_size, self.hidden_size))
    return zeros, zeros

  def __call__(
    self, z: jax.Array, action: jax.Array, carry: lstm.Carry
  ) -> tuple[Prediction, lstm.Carry]:
    """Predicts the next step after every step of a sequence.

    One call for a whole sequence gives the same results as one call per step.

    Args:
      z: latent vectors, float32 [B, T, Z].
      action: actions, float32 [B, T, A].
      carry: carry from `initial_carry` or the previous call.

    Returns:
      The predictions, [B, T, ...], and the carry after the last step.

    Raises:
      ValueError: `z` has another size.
    """
    if z.shape[-1] != self.latent_size:
      raise ValueError(f'z has {z.shape[-1]} numbers, not {self.latent_size}')
    inputs = jnp.concatenate([z, action], axis=-1)
    carry, hidden = self.lstm(inputs, carry)
    outputs = self.mixture(hidden)
    values = self.num_mixtures * self.latent_size
    first = outputs.shape[-1] - 2 * values
    shape = *hidden.shape[:-1], self.num_mixtures
    logits, mean, log_std = (
      x.reshape(*shape, x.shape[-1] // self.num_mixtures)
      for x in jnp.split(outputs, [first, first + values], axis=-1)
    )
    mixture = Mixture(
      logits=jax.nn.log_softmax(logits, axis=-2),
      mean=mean,
      log_std=MAX_ABS_LOG_STD * jnp.tanh(log_std / MAX_ABS_LOG_STD),
    )
    if not self.predict_outcomes:
      return Prediction(mixture), carry
    outcomes = self.outcomes(hidden)
    reward = RewardDistribution(outcomes[..., :-1])
    return Prediction(mixture, reward, outcomes[..., -1]), carry


def nll(mixture: Mixture, targets: jax.Array) -> jax.Array:
  """Returns the negative log-likelihood (NLL) of the true next latent vectors.

  Args:
    mixture: predictions for [B, T] steps.
    targets: true next latent vectors, float32 [B, T, Z].

  Returns:
    float32 [B, T], nats per latent dimension.
  """
  return -mixture.log_prob(targets) / targets.shape[-1]


class Loss(NamedTuple):
  """The loss of each step and its terms, each float32 [B, T].

  Attributes:
    total: loss to minimise: the sum of the terms, all per latent dimension.
      Unscaled, the reward dominates and hurts the prediction of z.
    nll: NLL of the next z, nats per latent dimension.
    reward_nll: NLL of the reward, nats, see `RewardDistribution.nll`; None if
      it is not predicted.
    reward_error: squared error of the expected reward; None if it is not
      predicted.
    termination_nll: NLL of the termination, nats; None if it is not predicted.
  """

  total: jax.Array
  nll: jax.Array
  reward_nll: jax.Array | None
  reward_error: jax.Array | None
  termination_nll: jax.Array | None


def loss(
  prediction: Prediction,
  targets: jax.Array,
  reward: jax.Array,
  terminal: jax.Array,
) -> Loss:
  """Compares predictions with the true outcomes.

  Args:
    prediction: predictions for [B, T] steps.
    targets: true next latent vectors, float32 [B, T, Z].
    reward: rewards of the actions, float32 [B, T].
    terminal: whether the next step ended the task, bool [B, T].

  Returns:
    The loss and its terms.
  """
  of_z = nll(prediction.mixture, targets)
  if prediction.reward is None or prediction.termination_logit is None:
    return Loss(of_z, of_z, None, None, None)
  reward_nll = prediction.reward.nll(reward)
  reward_error = (prediction.reward.mean() - reward) ** 2
  logit = prediction.termination_logit
  termination_nll = jax.nn.softplus(jnp.where(terminal, -logit, logit))
  total = of_z + (reward_nll + termination_nll) / targets.shape[-1]
  return Loss(total, of_z, reward_nll, reward_error, termination_nll)


# By name, as in `vae.ARCHITECTURES`. The carry of each is an `lstm.Carry`, two
# arrays [B, H], of which C sees the second one.
ARCHITECTURES = {'paper': MDNRNN}
