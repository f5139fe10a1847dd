"""Exported weights on disk: safetensors, and a JSON file that explains them.

The only file of `models` that touches the disk.
"""

from collections.abc import Mapping
import hashlib
import json
import os
from pathlib import Path
import shutil
from typing import Any, NamedTuple

from flax import traverse_util
import jax
from models import mdn_rnn
from models import vae
import safetensors
import safetensors.numpy

_MODELS = {'vae': vae.VAE, 'mdn_rnn': mdn_rnn.MDNRNN}
_WEIGHTS = 'model.safetensors'
_CONFIG = 'config.json'


class WeightsError(ValueError):
  """A folder does not hold the weights that were asked for."""


class Weights(NamedTuple):
  """A model that is ready to be applied: `model.apply(variables, ...)`.

  Attributes:
    model: the linen module, with the sizes it was trained with.
    variables: `{'params': ...}`, NumPy arrays.
    training: what the weights came from: dataset, steps, ...
    sha256: of the weights file, hexadecimal.
  """

  model: Any
  variables: Mapping[str, Any]
  training: Mapping[str, Any]
  sha256: str


def save(
  folder: str | os.PathLike[str],
  name: str,
  config: Mapping[str, Any],
  params: Mapping[str, Any],
  training: Mapping[str, Any],
) -> None:
  """Exports weights; the folder appears only when it is complete.

  Args:
    folder: where to; replaced if it exists.
    name: `vae` or `mdn_rnn`.
    config: the arguments of the model's constructor.
    params: its parameters.
    training: what the weights came from, for the record.
  """
  folder = Path(folder)
  unfinished = folder.with_name(folder.name + '.unfinished')
  shutil.rmtree(unfinished, ignore_errors=True)
  unfinished.mkdir(parents=True)
  arrays: Any = traverse_util.flatten_dict(jax.device_get(params), sep='/')
  safetensors.numpy.save_file(arrays, unfinished / _WEIGHTS)
  (unfinished / _CONFIG).write_text(
    json.dumps(
      {'model': name, 'config': dict(config), 'training': dict(training)},
      indent=2,
    )
    + '\n'
  )
  shutil.rmtree(folder, ignore_errors=True)
  unfinished.rename(folder)


def load(folder: str | os.PathLike[str], name: str) -> Weights:
  """Loads exported weights.

  Args:
    folder: what was given to `save`.
    name: the model that is expected, `vae` or `mdn_rnn`.

  Returns:
    The model and its weights.

  Raises:
    WeightsError: there are none, they are damaged, or of another model.
  """
  folder = Path(folder).expanduser()
  command = (
    f'train one with: python -m trainers.train_{name}'
    f' --config=trainers/configs/{name}.py --workdir={folder.parent}'
  )
  try:
    description = json.loads((folder / _CONFIG).read_text())
    data = (folder / _WEIGHTS).read_bytes()
  except FileNotFoundError:
    raise WeightsError(
      f'there are no exported weights of a {name} in {folder}; {command}'
    ) from None
  except json.JSONDecodeError as error:
    raise WeightsError(
      f'{folder / _CONFIG} is damaged ({error}); {command}'
    ) from None
  if description['model'] != name:
    raise WeightsError(
      f'{folder} holds the weights of a {description["model"]}, not of a'
      f' {name}; {command}'
    )
  try:
    params = safetensors.numpy.load(data)
  except safetensors.SafetensorError as error:
    raise WeightsError(
      f'{folder / _WEIGHTS} is damaged ({error}); {command}'
    ) from None
  return Weights(
    model=_MODELS[name](**description['config']),
    variables={'params': traverse_util.unflatten_dict(params, sep='/')},
    training=description['training'],
    sha256=hashlib.sha256(data).hexdigest(),
  )


def load_world_model(
  vae_folder: str | os.PathLike[str], mdn_rnn_folder: str | os.PathLike[str]
) -> tuple[Weights, Weights]:
  """Loads a VAE and an MDN-RNN that was trained on its latents.

  Raises:
    WeightsError: as `load`, or the two do not belong together.
  """
  v, m = load(vae_folder, 'vae'), load(mdn_rnn_folder, 'mdn_rnn')
  if m.training['vae_sha256'] != v.sha256:
    raise WeightsError(
      f'{mdn_rnn_folder} was trained on the latents of another VAE than'
      f' {vae_folder}; rebuild carracing_latents with this one and train'
      ' again'
    )
  return v, m
