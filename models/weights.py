"""Exported weights on disk: safetensors, and a JSON file that describes them.

The only module of `models` that reads or writes files.
"""

from collections.abc import Callable, Mapping
import contextlib
import importlib
import json
import os
from pathlib import Path
import shutil
from typing import Annotated, Any, Literal, NamedTuple

from carracing_data import digests
from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
from carracing_data import processes
from carracing_data import runtime
from flax import traverse_util
import jax
import numpy as np
import pydantic
import safetensors
import safetensors.numpy

FILE = 'model.safetensors'
START_STATES = 'start_states.safetensors'  # Of M only.
_CONFIG = 'config.json'
FILES = (FILE, START_STATES, _CONFIG)
_SEAL = 'description_sha256'
_LARGEST = np.float32(1e6)  # Far beyond what training finds.
# Of the folders beside another, while it is replaced.
_UNFINISHED, _REPLACED = '.unfinished', '.replaced'
_FORMAT = 2  # Incremented when older folders can no longer be read.


class WeightsError(errors.UserError):
  """A folder does not hold the requested weights."""


class ArchitectureError(WeightsError):
  """Weights are of another architecture than this code has."""


_Size = Annotated[int, pydantic.Field(ge=1, le=16_384)]


class _VAEConfig(json_documents.Document):
  latent_size: _Size


class _MDNRNNConfig(json_documents.Document):
  latent_size: _Size
  hidden_size: _Size
  num_mixtures: Annotated[int, pydantic.Field(ge=1, le=1000)]
  per_dimension: bool
  predict_outcomes: bool


class _ControllerConfig(json_documents.Document):
  latent_size: _Size
  hidden_size: Annotated[int, pydantic.Field(ge=0, le=16_384)]


# Schema of the arguments of the constructor.
_MODELS = {
  'vae': _VAEConfig,
  'mdn_rnn': _MDNRNNConfig,
  'controller': _ControllerConfig,
}


class Description(json_documents.Document):
  """Schema of `config.json`.

  Attributes:
    format: version of the format of the folder.
    model: `vae`, `mdn_rnn` or `controller`.
    architecture: name of the model's class, see `vae.ARCHITECTURES`; absent if
      it is `paper`.
    config: arguments of the model's constructor.
    training: provenance of the weights.
    weights_sha256: digest of the weights file.
    start_states_sha256: digest of the file of start states; None: there is
      none.
    description_sha256: digest of all of the above.
  """

  format: int
  model: Literal['vae', 'mdn_rnn', 'controller']
  architecture: json_documents.Name = 'paper'
  config: dict[str, Any]
  training: dict[str, Any]
  weights_sha256: json_documents.Sha256
  start_states_sha256: json_documents.Sha256 | None = None
  description_sha256: json_documents.Sha256


class Weights(NamedTuple):
  """A model and its weights: `model.apply(variables, ...)`.

  Attributes:
    name: `vae`, `mdn_rnn` or `controller`.
    model: linen module, with the sizes used in training.
    variables: `{'params': ...}`, NumPy arrays, float32.
    training: provenance of the weights.
    sha256: SHA-256 of the weights file, hexadecimal.
    architecture: name of the model's class.
    config: arguments of the model's constructor.
    start_states: see `save`.
    folder: their folder, for messages.
  """

  name: str
  model: Any
  variables: Mapping[str, Any]
  training: Mapping[str, Any]
  sha256: str
  architecture: str
  config: Mapping[str, Any]
  start_states: bytes | None
  folder: Path


def save(
  folder: str | os.PathLike[str],
  name: str,
  config: Mapping[str, Any],
  params: Mapping[str, Any],
  training: Mapping[str, Any],
  start_states: bytes | None = None,
  architecture: str = 'paper',
) -> str:
  """Exports weights; the folder appears only when it is complete.

  Args:
    folder: output folder; replaced if it holds other weights.
    name: `vae`, `mdn_rnn` or `controller`.
    config: arguments of the model's constructor.
    params: parameters of the model, all float32; or all float16, which halves
      the file. They are computed with in float32.
    training: provenance of the weights; JSON.
    start_states: content of the file of start states, see
      `models.start_states`; None: there is none.
    architecture: name of the model's class, see `vae.ARCHITECTURES`.

  Returns:
    The SHA-256 of the weights file.

  Raises:
    WeightsError: the parameters are NaN or too large, or do not fit the model.
    errors.UserError: the folder cannot be written.
  """
  flat: Any = traverse_util.flatten_dict(jax.device_get(params), sep='/')
  _checked_model(name, architecture, config, flat, f'the {name} to export')
  contents = {FILE: safetensors.numpy.save(flat)}
  description = {
    'format': _FORMAT,
    'model': name,
    'config': dict(config),
    'training': dict(training),
    'weights_sha256': digests.of_bytes(contents[FILE]),
  }
  if architecture != 'paper':
    description['architecture'] = architecture
  if start_states is not None:
    contents[START_STATES] = start_states
    description['start_states_sha256'] = digests.of_bytes(start_states)
  sealed = json_documents.sealed(description, _SEAL)
  contents[_CONFIG] = (json.dumps(sealed, indent=2) + '\n').encode()
  _write(Path(folder), contents)
  return description['weights_sha256']


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
    errors.UserError: the folder cannot be written.
  """
  folder = Path(folder)
  contents = {
    f'{name}/{file}': content
    for name, path in parts.items()
    for file, content in _read(files.expand(path))[1].items()
  }
  # What is missing, or cannot be read, is written.
  with contextlib.suppress(FileNotFoundError, errors.UserError):
    if all(files.read_bytes(folder / x) == y for x, y in contents.items()):
      return
  _write(folder, contents)


def check_replaceable(folder: Path) -> None:
  """Checks that exported weights, or an agent, may take the place of a folder.

  Raises:
    errors.UserError: it is a link, or it holds anything else than they do.
  """
  parts = [Path(name) for name in _MODELS]
  ours = {*parts, *(x / file for x in (Path(), *parts) for file in FILES)}
  for ending in '', _UNFINISHED, _REPLACED:
    path = folder.with_name(folder.name + ending)
    files.refuse_link(path)
    for other in path.rglob('*'):
      if other.relative_to(path) not in ours and not files.of_system(other):
        raise errors.UserError(
          f'weights would replace {path}, but {other} is not one of their'
          ' files; move that elsewhere, or choose another folder'
        )


def _write(folder: Path, contents: Mapping[str, bytes]) -> None:
  """Writes files, by name, into a folder that takes the place of another."""
  check_replaceable(folder)
  unfinished = folder.with_name(folder.name + _UNFINISHED)
  replaced = folder.with_name(folder.name + _REPLACED)
  with files.write_errors(folder):
    for leftover in unfinished, replaced:
      if leftover.exists():
        shutil.rmtree(leftover)
    for name, content in contents.items():
      file = unfinished / name
      file.parent.mkdir(parents=True, exist_ok=True)
      file.write_bytes(content)
    for written in (*unfinished.rglob('*'), unfinished):
      files.sync(written)
    if os.path.lexists(folder):
      # The slash lets it fail if that is a file or a link.
      os.rename(f'{folder}/', replaced)
    unfinished.rename(folder)
    files.sync(folder.parent)
    if replaced.exists():
      shutil.rmtree(replaced)


def load(folder: str | os.PathLike[str], name: str) -> Weights:
  """Loads exported weights.

  Args:
    folder: folder written by `save`.
    name: expected model: `vae`, `mdn_rnn` or `controller`.

  Returns:
    The model and its weights.

  Raises:
    WeightsError: the weights are missing, damaged or of another model.
    errors.UserError: the operating system cannot read them; or JAX is set up
      to give other results, see `runtime.check_settings`; or this process was
      forked from one that has loaded weights, with JAX.
  """
  processes.refuse_fork('JAX')
  runtime.check_settings()
  folder = files.expand(folder)
  description, contents = _read(folder, name)
  path = folder / FILE
  params = arrays(contents[FILE], str(path))
  model = _checked_model(
    name, description.architecture, description.config, params, str(path)
  )
  flat = {path: x.astype(np.float32) for path, x in params.items()}
  return Weights(
    name=name,
    model=model,
    variables={'params': traverse_util.unflatten_dict(flat, sep='/')},
    training=description.training,
    sha256=description.weights_sha256,
    architecture=description.architecture,
    config=description.config,
    start_states=contents.get(START_STATES),
    folder=folder,
  )


def arrays(content: bytes, source: str) -> dict[str, np.ndarray]:
  """Returns the arrays in a safetensors file; error messages name `source`.

  Raises:
    WeightsError: it is damaged, or NumPy lacks the dtype of an array.
  """
  try:
    return safetensors.numpy.load(content)
  except (safetensors.SafetensorError, ValueError) as error:
    raise WeightsError(f'{source} is damaged ({error})') from None
  except KeyError as error:
    dtype = {'BF16': 'bfloat16'}.get(error.args[0], error.args[0])
    raise WeightsError(f'{source} holds {dtype}, not float32') from None


def describe(folder: str | os.PathLike[str]) -> Description:
  """Returns the description of exported weights after checking their digests.

  Raises:
    WeightsError: the weights are missing or damaged.
    errors.UserError: the operating system cannot read them.
  """
  return _read(files.expand(folder))[0]


def _read(
  folder: Path, name: str | None = None
) -> tuple[Description, dict[str, bytes]]:
  """Reads all files and checks their digests.

  Args:
    folder: folder written by `save`.
    name: expected model; None if any will do.

  Returns:
    The description, and the contents of all files, by name.
  """
  of_a, hint = '', ''
  if name is not None:
    of_a = f' of a {name}'
    hint = (
      f'; train one with: python -m trainers.train_{name}'
      f' --config=trainers/configs/{name}.py --workdir=RUN'
    )
  config, mismatch = folder / _CONFIG, 'does not match its digest'
  try:
    contents = {x: files.read_bytes(folder / x) for x in (FILE, _CONFIG)}
    description = json_documents.parse(
      contents[_CONFIG], Description, str(config)
    )
    if description.format != _FORMAT:
      raise WeightsError(
        f'{folder} was written by another version of this project, in format'
        f' {description.format}; this version reads format {_FORMAT}'
      )
    _MODELS[description.model](**description.config)
    content = description.model_dump(exclude_unset=True)
    if not json_documents.is_sealed(content, _SEAL):
      raise errors.DocumentError(f'{config} is damaged: its content {mismatch}')
    expected = {FILE: description.weights_sha256}
    if description.start_states_sha256 is not None:
      expected[START_STATES] = description.start_states_sha256
      with contextlib.suppress(FileNotFoundError):
        contents[START_STATES] = files.read_bytes(folder / START_STATES)
    for file, sha256 in expected.items():
      if digests.of_bytes(contents.get(file, b'')) != sha256:
        problem = f'damaged: it {mismatch}' if file in contents else 'missing'
        raise errors.DocumentError(f'{folder / file} is {problem}')
    if name not in (None, description.model):
      raise WeightsError(
        f'{folder} holds the weights of a {description.model}, not{of_a}{hint}'
      )
    return description, contents
  except FileNotFoundError:
    message = f'there are no exported weights{of_a} in {folder}{hint}'
    # The folder of a run has a `config.json`, too.
    if os.path.exists(folder / 'weights' / FILE):
      message += f'; did you mean {folder / "weights"}?'
    raise WeightsError(message) from None
  except pydantic.ValidationError as error:
    problem = f'{config} is damaged: config: {json_documents.explain(error)}'
  except errors.DocumentError as error:
    problem = str(error)
  raise WeightsError(f'{problem}; {remedy(folder)}')


def remedy(folder: str | os.PathLike[str]) -> str:
  """Returns what mends a damaged folder of weights, for error messages."""
  return (
    f'copy it again from its source, or, if a run made it, delete {folder} and'
    ' run the command of that run again'
  )


def architecture(model: str, name: str) -> Callable[..., Any]:
  """Returns the class of a `vae`, `mdn_rnn` or `controller`.

  Raises:
    ArchitectureError: there is no architecture of this name.
  """
  # Imported by name, so that whoever trains V needs neither M nor C.
  known = importlib.import_module(f'models.{model}').ARCHITECTURES
  if name not in known:
    raise ArchitectureError(
      f'models/{model}.py has no architecture {name!r}, only {", ".join(known)}'
    )
  return known[name]


def _checked_model(
  name: str,
  of: str,
  config: Mapping[str, Any],
  params: Mapping[str, Any],
  source: str,
) -> Any:
  """Returns a model after checking that parameters fit it and are bounded.

  Args:
    name: `vae`, `mdn_rnn` or `controller`.
    of: name of its architecture.
    config: arguments of the model's constructor.
    params: parameters by path, `layer/kernel`.
    source: origin of the parameters, for the error message.

  Raises:
    ArchitectureError: they do not fit, or there is no such architecture.
    WeightsError: they are NaN or too large.
  """
  config = _MODELS[name](**config).model_dump()
  z = np.zeros((1, config['latent_size']), np.float32)
  hidden = np.zeros((1, config.get('hidden_size', 0)), np.float32)
  action = np.zeros((1, 1, 3), np.float32)
  key = jax.random.key(0)
  inputs = {
    'vae': (np.zeros((1, 64, 64, 3), np.uint8), key),
    'mdn_rnn': (z[None], action, (hidden, hidden)),
    'controller': (z, hidden),
  }[name]
  try:
    model = architecture(name, of)(**config)
  except ArchitectureError as error:
    raise ArchitectureError(
      f'{source} is of another {name}: {error}; use the code that has it'
    ) from None
  shapes = jax.eval_shape(model.init, key, *inputs)['params']
  expected: Any = traverse_util.flatten_dict(shapes, sep='/')
  rounded = params and all(x.dtype == np.float16 for x in params.values())
  dtype = 'float16' if rounded else 'float32'
  wanted = {path: f'{dtype}{list(x.shape)}' for path, x in expected.items()}
  found = {path: f'{x.dtype}{list(x.shape)}' for path, x in params.items()}
  for path in sorted({*found, *wanted}):
    of_file, of_model = found.get(path, 'absent'), wanted.get(path, 'absent')
    if of_file != of_model:
      raise ArchitectureError(
        f'{source} is of another {name} than the {of!r} of models/{name}.py:'
        f' {path} is {of_file}, not {of_model}; give yours a name of its own'
        ' in ARCHITECTURES there, or use the code that made these weights'
      )
    if not (np.abs(params[path]) <= _LARGEST).all():  # Nor is NaN.
      raise WeightsError(
        f'{source}: {path} has NaN, infinite or huge numbers (> {_LARGEST:g})'
      )
  return model
