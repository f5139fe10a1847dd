"""Exploration: the initial controller and the noise."""

import numpy as np

# Steering, gas and brake before `tanh`: straight on, 60 % gas, no brake.
INITIAL_BIAS = (0.0, 0.2, -0.5)
INITIAL_LOG_STD = -0.5  # Logarithm of its standard deviation before `tanh`.
# While features are measured, noise changes slowly, and is wide before `tanh`.
WARMUP_CORRELATION, WARMUP_SCALE = 0.95, 1.0
_MIN_STD = 1e-3  # Of a feature that hardly varies.


def continue_noise(
  noise: np.ndarray, correlation: float, rng: np.random.Generator
) -> np.ndarray:
  """Draws the next noise of an autoregressive process, float64.

  Args:
    noise: the last noise.
    correlation: of the last noise with the next one, 0..1.
    rng: source of the random draws.

  Returns:
    Standard normal in the long run, of the same shape.
  """
  fresh = rng.standard_normal(noise.shape)
  return correlation * noise + np.sqrt(1 - correlation**2) * fresh


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns mean and standard deviation of features, float32 [F] each.

  Args:
    features: float [..., F].
  """
  examples = features.reshape(-1, features.shape[-1]).astype(np.float32)
  return examples.mean(0), examples.std(0) + np.float32(_MIN_STD)
