"""Exported weights on disk: safetensors, and a JSON file that explains them.

The only file of `models` that touches the disk.
"""

from collections.abc import Mapping
import hashlib
import json
import os
from pathlib import Path
import shutil
from typing import Annotated, Any, Literal, NamedTuple

from flax import traverse_util
import jax
import jax.numpy as jnp
from models import mdn_rnn
from models import vae
import numpy as np
import pydantic
import safetensors
import safetensors.numpy

FILE = 'model.safetensors'
_CONFIG = 'config.json'
_FORMAT = 2  # Raised when older folders cannot be read any more.


class WeightsError(ValueError):
  """A folder does not hold the weights that were asked for."""


class _Schema(pydantic.BaseModel):
  model_config = pydantic.ConfigDict(
    extra='forbid', strict=True, allow_inf_nan=False
  )


_Size = Annotated[int, pydantic.Field(ge=1, le=16_384)]


class _VAEConfig(_Schema):
  latent_size: _Size

  def model(self) -> vae.VAE:
    return vae.VAE(**self.model_dump())

  def init(self, key: jax.Array) -> Any:
    frames = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    return self.model().init(key, frames, key)


class _MDNRNNConfig(_Schema):
  latent_size: _Size
  hidden_size: _Size
  num_mixtures: Annotated[int, pydantic.Field(ge=1, le=1000)]
  per_dimension: bool
  predict_outcomes: bool

  def model(self) -> mdn_rnn.MDNRNN:
    return mdn_rnn.MDNRNN(**self.model_dump())

  def init(self, key: jax.Array) -> Any:
    model = self.model()
    z, action = jnp.zeros((1, 1, self.latent_size)), jnp.zeros((1, 1, 3))
    return model.init(key, z, action, model.initial_carry(1))


_CONFIGS = {'vae': _VAEConfig, 'mdn_rnn': _MDNRNNConfig}


class _Description(_Schema):
  """All of `config.json`.

  Attributes:
    format: of the folder.
    model: `vae` or `mdn_rnn`.
    config: the arguments of the model's constructor.
    training: what the weights came from.
    weights_sha256: of the weights file.
    description_sha256: of all of the above.
  """

  format: Literal[2]
  model: Literal['vae', 'mdn_rnn']
  config: dict[str, Any]
  training: dict[str, Any]
  weights_sha256: str
  description_sha256: str


class UnreadableError(WeightsError):
  """The operating system cannot read weights, which may be intact."""


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
) -> str:
  """Exports weights; the folder appears only when it is complete.

  Args:
    folder: where to; replaced if it exists.
    name: `vae` or `mdn_rnn`.
    config: the arguments of the model's constructor.
    params: its parameters, float32.
    training: what the weights came from, for the record; JSON.

  Returns:
    The SHA-256 of the weights file.

  Raises:
    WeightsError: the parameters are not finite, not those of the model, or
      cannot be written.
  """
  folder = Path(folder)
  flat = _flatten(params)
  _check_params(_CONFIGS[name](**config), flat, f'the {name} to export')
  data = safetensors.numpy.save(flat)
  sha256 = hashlib.sha256(data).hexdigest()
  description = {
    'format': _FORMAT,
    'model': name,
    'config': dict(config),
    'training': dict(training),
    'weights_sha256': sha256,
  }
  description['description_sha256'] = _seal(description)
  unfinished = folder.with_name(folder.name + '.unfinished')
  replaced = folder.with_name(folder.name + '.replaced')
  try:
    for leftover in unfinished, replaced:
      if leftover.exists():
        shutil.rmtree(leftover)
    unfinished.mkdir(parents=True)
    _write(unfinished / FILE, data)
    text = json.dumps(description, indent=2, allow_nan=False) + '\n'
    _write(unfinished / _CONFIG, text.encode())
    _sync(unfinished)
    if folder.exists():
      folder.rename(replaced)
    unfinished.rename(folder)
    _sync(folder.parent)
    if replaced.exists():
      shutil.rmtree(replaced)
  except OSError as error:
    raise WeightsError(
      f'cannot write weights to {folder}: {error.filename}: {error.strerror}'
    ) from error
  return sha256


def digest(params: Mapping[str, Any]) -> str:
  """Returns the SHA-256 of the file that `save` would write."""
  return hashlib.sha256(safetensors.numpy.save(_flatten(params))).hexdigest()


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
  folder = _expand(folder)
  description, data = _read(folder, name)
  if description.model != name:
    raise WeightsError(
      f'{folder} holds the weights of a {description.model}, not of a {name};'
      f' {_hint(name)}'
    )
  config = _CONFIGS[name](**description.config)
  try:
    params = safetensors.numpy.load(data)
  except safetensors.SafetensorError as error:
    raise WeightsError(f'{folder / FILE} is damaged ({error})') from None
  _check_params(config, params, str(folder / FILE))
  return Weights(
    model=config.model(),
    variables={'params': traverse_util.unflatten_dict(params, sep='/')},
    training=description.training,
    sha256=description.weights_sha256,
  )


def verify(folder: str | os.PathLike[str]) -> str:
  """Returns the SHA-256 of exported weights that are what was written.

  Raises:
    WeightsError: there are none, or they are damaged.
  """
  description, _ = _read(_expand(folder), 'vae')
  return description.weights_sha256


def _expand(folder: str | os.PathLike[str]) -> Path:
  try:
    return Path(folder).expanduser()
  except RuntimeError as error:  # Of a user that there is not.
    raise WeightsError(f'{folder}: {error}') from None


def _hint(name: str) -> str:
  return (
    f'train one with: python -m trainers.train_{name}'
    f' --config=trainers/configs/{name}.py --workdir=RUN'
  )


def _read(folder: Path, name: str) -> tuple[_Description, bytes]:
  """Reads both files and checks that they are what was written.

  Args:
    folder: what was given to `save`.
    name: the model that is expected, for the message.
  """
  try:
    text = (folder / _CONFIG).read_bytes()
    data = (folder / FILE).read_bytes()
  except (FileNotFoundError, NotADirectoryError):
    hint = _hint(name)
    # A run's own `config.json` is a file of that name, too.
    if os.path.exists(folder / 'weights' / FILE):
      hint = f'did you mean {folder / "weights"}?'
    raise WeightsError(
      f'there are no exported weights of a {name} in {folder}; {hint}'
    ) from None
  except OSError as error:
    raise UnreadableError(
      f'cannot read {str(error.filename)[:200]}: {error.strerror}'
    ) from None
  except ValueError as error:  # A NUL in the path.
    raise UnreadableError(f'cannot read {str(folder)!r}: {error}') from None
  try:
    raw = json.loads(text)
    if (
      isinstance(raw, dict) and 'model' in raw and raw.get('format') != _FORMAT
    ):
      raise WeightsError(
        f'{folder} was written by another version of this project; export the'
        ' weights again with this one'
      )
    description = _Description.model_validate_json(text)
    if description.description_sha256 != _seal(raw):
      raise ValueError('its content is not what was written')
    _CONFIGS[description.model](**description.config)
  except WeightsError:
    raise
  except (RecursionError, ValueError) as error:
    raise WeightsError(
      f'{folder / _CONFIG} is damaged ({_explain(error)}); export the weights'
      ' again, or copy them again from where they came'
    ) from None
  if hashlib.sha256(data).hexdigest() != description.weights_sha256:
    raise WeightsError(
      f'{folder / FILE} is damaged: it is not the file that was written; copy'
      ' it again from where it came, or export it again'
    )
  return description, data


def _flatten(params: Mapping[str, Any]) -> Any:
  return traverse_util.flatten_dict(jax.device_get(params), sep='/')


def _check_params(
  config: _VAEConfig | _MDNRNNConfig, params: Mapping[str, Any], source: str
) -> None:
  """Raises WeightsError if parameters are not those of a model."""
  shapes = jax.eval_shape(config.init, jax.random.key(0))['params']
  expected: Any = traverse_util.flatten_dict(shapes, sep='/')
  for path in sorted({*params, *expected}):
    found, wanted = (
      f'{x[path].dtype}{list(x[path].shape)}' if path in x else 'absent'
      for x in (params, expected)
    )
    if found != wanted:
      raise WeightsError(f'{source}: {path} is {found}, not {wanted}')
    if not np.isfinite(params[path]).all():
      raise WeightsError(f'{source}: {path} has NaN or infinite numbers')


def _seal(description: Mapping[str, Any]) -> str:
  content = {k: v for k, v in description.items() if k != 'description_sha256'}
  text = json.dumps(content, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _explain(error: Exception) -> str:
  """Says in a line what was wrong with a document."""
  if not isinstance(error, pydantic.ValidationError):
    return str(error)
  finding = error.errors(include_url=False)[0]
  return f'{".".join(map(str, finding["loc"]))} {finding["msg"]}'.strip()


def _write(path: Path, data: bytes) -> None:
  path.write_bytes(data)
  _sync(path)


def _sync(path: Path) -> None:
  """Waits until a file's content, or a folder's names, are on disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
