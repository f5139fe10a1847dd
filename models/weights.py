"""Exported weights on disk: safetensors, and a JSON file that describes them.

The only module of `models` that reads or writes files.
"""

from collections.abc import Iterator, Mapping
import contextlib
import errno
import functools
import hashlib
import os
from pathlib import Path
import shutil
from typing import Annotated, Any, Literal, NamedTuple

from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
from flax import traverse_util
import jax
import jax.numpy as jnp
from models import controller
from models import mdn_rnn
from models import vae
import numpy as np
import pydantic
import safetensors
import safetensors.numpy

FILE = 'model.safetensors'
START_STATES = 'start_states.safetensors'  # Of M only.
_CONFIG = 'config.json'
FILES = (FILE, START_STATES, _CONFIG)
_SEAL = 'description_sha256'
_FORMAT = 2  # Incremented when older folders can no longer be read.


class WeightsError(errors.UserError):
  """A folder does not hold the requested weights."""


_Size = Annotated[int, pydantic.Field(ge=1, le=16_384)]


class _VAEConfig(json_documents.Document):
  latent_size: _Size

  def model(self) -> vae.VAE:
    return vae.VAE(**self.model_dump())

  def init(self, key: jax.Array) -> Any:
    frames = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    return self.model().init(key, frames, key)


class _MDNRNNConfig(json_documents.Document):
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


class _ControllerConfig(json_documents.Document):
  latent_size: _Size
  hidden_size: Annotated[int, pydantic.Field(ge=0, le=16_384)]

  def model(self) -> controller.Controller:
    return controller.Controller(**self.model_dump())

  def init(self, key: jax.Array) -> Any:
    z, hidden = (
      jnp.zeros((1, self.latent_size)),
      jnp.zeros((1, self.hidden_size)),
    )
    return self.model().init(key, z, hidden)


_CONFIGS = {
  'vae': _VAEConfig,
  'mdn_rnn': _MDNRNNConfig,
  'controller': _ControllerConfig,
}


class Description(json_documents.Document):
  """Schema of `config.json`.

  Attributes:
    format: version of the format of the folder.
    model: `vae`, `mdn_rnn` or `controller`.
    config: arguments of the model's constructor.
    training: provenance of the weights.
    weights_sha256: digest of the weights file.
    start_states_sha256: digest of the file of start states; None: there is
      none.
    description_sha256: digest of all of the above.
  """

  format: int
  model: Literal['vae', 'mdn_rnn', 'controller']
  config: dict[str, Any]
  training: dict[str, Any]
  weights_sha256: json_documents.Sha256
  start_states_sha256: json_documents.Sha256 | None = None
  description_sha256: json_documents.Sha256


class Weights(NamedTuple):
  """A model and its weights: `model.apply(variables, ...)`.

  Attributes:
    model: linen module, with the sizes used in training.
    variables: `{'params': ...}`, NumPy arrays, float32.
    training: provenance of the weights: dataset, steps, ...
    sha256: SHA-256 of the weights file, hexadecimal.
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
  start_states: bytes | None = None,
) -> str:
  """Exports weights; the folder appears only when it is complete.

  Args:
    folder: output folder; replaced if it exists.
    name: `vae`, `mdn_rnn` or `controller`.
    config: arguments of the model's constructor.
    params: parameters of the model, all float32; or all float16, which halves
      the file. They are computed with in float32.
    training: provenance of the weights; JSON.
    start_states: content of the file of start states, see
      `models.start_states`; None: there is none.

  Returns:
    The SHA-256 of the weights file.

  Raises:
    WeightsError: the parameters are not finite or do not fit the model.
    errors.PlaceError: the folder cannot be written.
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
  files = {FILE: data}
  if start_states is not None:
    files[START_STATES] = start_states
    description['start_states_sha256'] = hashlib.sha256(
      start_states
    ).hexdigest()
  with _replacing(folder) as unfinished:
    for file, content in files.items():
      _write(unfinished / file, content)
    json_documents.write(
      unfinished / _CONFIG, json_documents.sealed(description, _SEAL)
    )
  return sha256


def remedy(folder: str | os.PathLike[str]) -> str:
  """Returns what mends a damaged folder of weights, for error messages."""
  return (
    f'copy it again from its source, or, if a run made it, delete {folder} and'
    ' run the command of that run again'
  )


def gather(
  folder: str | os.PathLike[str],
  parts: Mapping[str, str | os.PathLike[str]],
) -> None:
  """Copies exported weights into one folder; it appears when it is complete.

  Args:
    folder: output folder; replaced if it holds other weights.
    parts: folders of exported weights, by name in the output folder.

  Raises:
    WeightsError: weights are missing or damaged.
    errors.PlaceError: the folder cannot be written.
  """
  folder = Path(folder)
  # Of M also the start states, which its weights do not determine.
  wanted = {name: _digests(path) for name, path in parts.items()}
  try:
    if wanted == {name: _digests(folder / name) for name in parts}:
      return
  except errors.UserError:
    pass  # Missing or damaged: written again.
  with _replacing(folder) as unfinished:
    for name, path in parts.items():
      path = files.expand(path)
      (unfinished / name).mkdir()
      for file in FILES:
        if file != START_STATES or describe(path).start_states_sha256:
          _write(unfinished / name / file, files.read_bytes(path / file))


def _write(path: Path, content: bytes) -> None:
  files.replace(path, functools.partial(Path.write_bytes, data=content))


@contextlib.contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
  """Yields a folder to fill, which then takes the place of another one."""
  unfinished = folder.with_name(folder.name + '.unfinished')
  replaced = folder.with_name(folder.name + '.replaced')
  with files.write_errors(folder):
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
      raise NotADirectoryError(errno.ENOTDIR, 'it is not a folder')
    for leftover in unfinished, replaced:
      if leftover.is_symlink() or leftover.is_file():
        leftover.unlink()
      elif leftover.exists():
        shutil.rmtree(leftover)
    unfinished.mkdir(parents=True)
    yield unfinished
    if folder.exists():
      folder.rename(replaced)
    unfinished.rename(folder)
    files.sync(folder.parent)
    if replaced.exists():
      shutil.rmtree(replaced)


def digest(params: Mapping[str, Any]) -> str:
  """Returns the SHA-256 of the file that `save` would write."""
  return hashlib.sha256(safetensors.numpy.save(_flatten(params))).hexdigest()


def load(folder: str | os.PathLike[str], name: str) -> Weights:
  """Loads exported weights.

  Args:
    folder: folder written by `save`.
    name: expected model: `vae`, `mdn_rnn` or `controller`.

  Returns:
    The model and its weights.

  Raises:
    WeightsError: the weights are missing, damaged or of another model.
    errors.UnreadableError: the operating system cannot read them.
  """
  folder = files.expand(folder)
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
  flat = {path: x.astype(np.float32) for path, x in params.items()}
  return Weights(
    model=config.model(),
    variables={'params': traverse_util.unflatten_dict(flat, sep='/')},
    training=description.training,
    sha256=description.weights_sha256,
  )


def verify(folder: str | os.PathLike[str]) -> str:
  """Checks the digests of exported weights and returns their SHA-256.

  Raises:
    WeightsError: the weights are missing or damaged.
    errors.UnreadableError: the operating system cannot read them.
  """
  return describe(folder).weights_sha256


def _digests(folder: str | os.PathLike[str]) -> tuple[str, str | None]:
  description = describe(folder)
  return description.weights_sha256, description.start_states_sha256


def describe(folder: str | os.PathLike[str]) -> Description:
  """Returns the description of exported weights after checking their digests.

  Raises:
    WeightsError: the weights are missing or damaged.
    errors.UnreadableError: the operating system cannot read them.
  """
  description, _ = _read(files.expand(folder))
  return description


def start_states(folder: str | os.PathLike[str]) -> bytes | None:
  """Returns the start states of exported weights; None if they have none.

  Raises:
    WeightsError: the weights are missing or damaged.
    errors.UnreadableError: the operating system cannot read them.
  """
  folder = files.expand(folder)
  if describe(folder).start_states_sha256 is None:
    return None
  return files.read_bytes(folder / START_STATES)


def _hint(name: str) -> str:
  return (
    f'train one with: python -m trainers.train_{name}'
    f' --config=trainers/configs/{name}.py --workdir=RUN'
  )


def _read(folder: Path, name: str | None = None) -> tuple[Description, bytes]:
  """Reads both files and checks their digests.

  Args:
    folder: folder written by `save`.
    name: expected model, for the error message; None if any will do.
  """
  try:
    contents = {FILE: files.read_bytes(folder / FILE)}
    description = json_documents.read(folder / _CONFIG, Description)
    _CONFIGS[description.model](**description.config)
  except FileNotFoundError:
    message = f'there are no exported weights in {folder}'
    if name is not None:
      message = f'there are no exported weights of a {name} in {folder}'
      message += f'; {_hint(name)}'
    # The folder of a run has a `config.json`, too.
    if os.path.exists(folder / 'weights' / FILE):
      message += f'; did you mean {folder / "weights"}?'
    raise WeightsError(message) from None
  except pydantic.ValidationError as error:
    raise _damaged(folder, f'config: {json_documents.explain(error)}') from None
  except errors.DocumentError as error:
    raise _damaged(folder, str(error)) from None
  if description.format != _FORMAT:
    raise WeightsError(
      f'{folder} was written by another version of this project, in format'
      f' {description.format}; this version reads format {_FORMAT}'
    )
  content = description.model_dump(exclude_unset=True)
  if not json_documents.is_sealed(content, _SEAL):
    raise _damaged(folder, 'its content does not match its digest')
  digests = {FILE: description.weights_sha256}
  if description.start_states_sha256 is not None:
    digests[START_STATES] = description.start_states_sha256
    with contextlib.suppress(FileNotFoundError):
      contents[START_STATES] = files.read_bytes(folder / START_STATES)
  for file, sha256 in digests.items():
    if hashlib.sha256(contents.get(file, b'')).hexdigest() != sha256:
      problem = 'damaged: it does not match its digest'
      raise WeightsError(
        f'{folder / file} is {problem if file in contents else "missing"};'
        f' {remedy(folder)}'
      )
  return description, contents[FILE]


def _damaged(folder: Path, reason: str) -> WeightsError:
  path = f'{folder / _CONFIG} is damaged: '
  return WeightsError(f'{path}{reason.removeprefix(path)}; {remedy(folder)}')


def _flatten(params: Mapping[str, Any]) -> Any:
  return traverse_util.flatten_dict(jax.device_get(params), sep='/')


def _check_params(
  config: _VAEConfig | _MDNRNNConfig | _ControllerConfig,
  params: Mapping[str, Any],
  source: str,
) -> None:
  """Raises WeightsError if parameters do not fit a model or are not finite."""
  shapes = jax.eval_shape(config.init, jax.random.key(0))['params']
  expected: Any = traverse_util.flatten_dict(shapes, sep='/')
  if params and all(x.dtype == np.float16 for x in params.values()):
    expected = {
      path: jax.ShapeDtypeStruct(x.shape, np.float16)
      for path, x in expected.items()
    }
  for path in sorted({*params, *expected}):
    found, wanted = (
      f'{x[path].dtype}{list(x[path].shape)}' if path in x else 'absent'
      for x in (params, expected)
    )
    if found != wanted:
      raise WeightsError(f'{source}: {path} is {found}, not {wanted}')
    if not np.isfinite(params[path]).all():
      raise WeightsError(f'{source}: {path} has NaN or infinite numbers')
