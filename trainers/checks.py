"""Configs that cannot work → one clear message, before anything is compiled."""

import jax
import ml_collections
import tensorflow_datasets as tfds
from trainers import run_folder

_AT_LEAST_ONE = (
  'batch_size',
  'checkpoint_every_steps',
  'eval_batches',
  'eval_every_steps',
  'hidden_size',
  'latent_size',
  'log_every_steps',
  'num_mixtures',
  'num_steps',
  'window_steps',
)
_NOT_NEGATIVE = (
  'early_stop_evaluations',
  'free_nats',
  'kl_warmup_steps',
  'kl_weight',
  'learning_rate',
  'max_gradient_norm',
  'seed',
  'warmup_steps',
)
_SHARES = 'ema_decay', 'motion_weight'
_DTYPES = 'bfloat16', 'float32'


def check(config: ml_collections.ConfigDict) -> None:
  """Checks what can be known without the data.

  Raises:
    run_folder.RunError: a value is impossible; the message names it.
  """
  for keys, wanted, possible in (
    (_AT_LEAST_ONE, 'at least 1', lambda value: value >= 1),
    (_NOT_NEGATIVE, 'at least 0', lambda value: value >= 0),
    (_SHARES, 'from 0 to 1', lambda value: 0 <= value <= 1),
    (('dtype',), ' or '.join(_DTYPES), _DTYPES.__contains__),
  ):
    for key in keys:
      if key in config and not possible(config[key]):
        _refuse(key, config[key], f'it must be {wanted}')
  devices = jax.device_count()
  if config.batch_size % devices:
    _refuse(
      'batch_size', config.batch_size, f'{devices} devices cannot share it'
    )


def check_window(
  config: ml_collections.ConfigDict, latents: tfds.core.DatasetBuilder
) -> None:
  """Checks the window against the episodes.

  Raises:
    run_folder.RunError: it is longer than every episode.
  """
  longest = max(
    max(split['episode_steps'])
    for split in latents.info.metadata['splits'].values()
  )
  if config.window_steps > longest - 1:
    _refuse(
      'window_steps',
      config.window_steps,
      f'the longest episode of {latents.info.full_name} has {longest - 1}'
      ' transitions',
    )


def _refuse(key: str, value: object, reason: str) -> None:
  raise run_folder.RunError(f'--config.{key}={value} cannot work: {reason}')
