"""Stages of a pipeline: commands that run unless their results are there.

A stage leaves a stamp: its command, the digests of what it read and wrote, and
how long it took. It is done as long as its command and its inputs are the same
and its outputs are whole: datasets as far as their documents tell, everything
else to the last byte. Each command is printed as a user would type it, so
that a pipeline also documents the steps.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import json
import os
from pathlib import Path
import re
import shlex
import subprocess
import sys
import time
from typing import Any

from absl import logging
from carracing_data import digests
from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
from carracing_data import prepared_dataset
from models import agent
from models import weights

Execute = Callable[[Sequence[str]], None]
ROOT = Path(__file__).parents[2]
_STAMPS = 'stages'
_PATIENCE = 2  # Seconds until a command is stopped that was sent no signal.


class Stamp(json_documents.Document):
  """What a stage leaves in `stages/`.

  Attributes:
    command: the command.
    inputs: digests of what it read, by name.
    outputs: digests of what it wrote, by name; empty until it is finished.
    seconds: how long it took, all attempts together.
  """

  command: list[str]
  inputs: dict[str, json_documents.Sha256]
  outputs: dict[str, json_documents.Sha256]
  seconds: float


class Pipeline:
  """Runs stages in a folder.

  Attributes:
    folder: folder of the pipeline, absolute.
    data_dir: data directory of the datasets.
  """

  def __init__(self, folder: Path, execute: Execute):
    """Prepares a pipeline.

    Args:
      folder: folder of the pipeline, absolute.
      execute: runs a command in `ROOT`; raises UserError if it fails.
    """
    self.folder = folder
    self.data_dir = folder / 'data'
    self._execute = execute
    self._seconds: dict[str, float] = {}  # Of this call, by stage.

  def run(
    self,
    name: str,
    title: str,
    command: Sequence[str],
    inputs: Sequence[str | Path],
    outputs: Sequence[str | Path],
  ) -> None:
    """Runs the command of a stage, unless it is done.

    If it is not done, its command decides: it makes what is missing, accepts
    what is finished, and refuses what it would overwrite.

    Args:
      name: name of the stage, unique in the pipeline.
      title: what it does, for people.
      command: program and arguments.
      inputs: what it reads: datasets by name; files, exported weights and
        agents by path.
      outputs: what it writes, likewise.

    Raises:
      errors.UserError: the command failed, or an input is damaged.
    """
    path = self.folder / _STAMPS / f'{name}.json'
    for folder in self.folder / _STAMPS, path.parent:
      files.refuse_link(folder)
    files.claim_folder(path.parent)
    earlier = _read(path)
    stamp = Stamp(
      command=[relative(part) for part in command],
      inputs=self._digests(inputs),
      outputs={},
      seconds=0.0 if earlier is None else earlier.seconds,
    )
    print(f'\n{name}: {title}', end='', flush=True)
    done = False
    with contextlib.suppress(FileNotFoundError, errors.UserError):
      done = earlier is not None and earlier == stamp.model_copy(
        update={'outputs': self._digests(outputs)}
      )
    if done:
      print(': already done', flush=True)
      self._seconds[name] = stamp.seconds
      return
    print(f'\n$ {shlex.join(stamp.command)}', flush=True)
    started = time.monotonic()
    try:
      self._execute(stamp.command)
      stamp = stamp.model_copy(update={'outputs': self._digests(outputs)})
    finally:
      seconds = time.monotonic() - started
      self._seconds[name] = round(stamp.seconds + seconds, 1)
      stamp = stamp.model_copy(update={'seconds': self._seconds[name]})
      json_documents.write(path, stamp.model_dump())
    print(f'({seconds:.0f} s)', flush=True)

  def build(
    self, name: str, title: str, dataset: str, config: Mapping[str, Any]
  ) -> str:
    """Builds a dataset; see `run`.

    Args:
      name: name of the stage.
      title: what it does, for people.
      dataset: name of the dataset.
      config: its config, with its `name`; files and weights as paths.

    Returns:
      `dataset/config`.
    """
    built = f'{dataset}/{config["name"]}'
    command = ['tfds', 'build', f'datasets/{dataset}']
    command.append(f'--data_dir={self.data_dir}')
    command.append(f'--config={json.dumps(config, default=str)}')
    inputs = [config[x] for x in ('actions', 'rollouts', 'vae') if x in config]
    self.run(name, title, command, inputs, [built])
    return built

  def train(
    self,
    name: str,
    title: str,
    inputs: Mapping[str, Path],
    config_file: str | None = None,
    **config: Any,
  ) -> Path:
    """Trains a model; see `run`.

    Args:
      name: name of the stage, and path of the run in the folder of the
        pipeline; ends with `vae`, `mdn_rnn` or `controller`.
      title: what it does, for people.
      inputs: folders of weights, by flag.
      config_file: name of the config; None: that of the model.
      **config: changed hyperparameters; the datasets as `A+B`.

    Returns:
      The folder of the exported weights, or of the agent.
    """
    workdir = self.folder / name
    model = workdir.name
    command = python(
      f'trainers.train_{model}',
      f'--config=trainers/configs/{config_file or model}.py',
      f'--workdir={workdir}',
    )
    read: list[str | Path] = [*inputs.values()]
    exported = workdir / 'agent'
    written: list[str | Path] = [workdir / 'weights', workdir / 'metrics.json']
    if 'dataset' in config:
      command.append(f'--data_dir={self.data_dir}')
      read += config['dataset'].split('+')
      exported = workdir / 'weights'
    command += [f'--{flag}={path}' for flag, path in inputs.items()]
    command += [f'--config.{key}={value}' for key, value in config.items()]
    self.run(name, title, command, read, [exported, *written])
    return exported

  def minutes(self) -> list[str]:
    """Returns a line for each stage of this call, and one for all of them."""
    lines = [f'{x / 60:6.1f}  {name}' for name, x in self._seconds.items()]
    return [*lines, f'{sum(self._seconds.values()) / 60:6.1f}  altogether']

  def _digests(self, artefacts: Sequence[str | Path]) -> dict[str, str]:
    return {relative(str(x)): self._digest(x) for x in artefacts}

  def _digest(self, artefact: str | Path) -> str:
    """Returns the digest of a dataset (by name), an agent, weights or a file.

    Of datasets it is the one that they record.
    """
    if isinstance(artefact, str):
      return prepared_dataset.find(artefact, self.data_dir).digest
    if (artefact / 'controller').is_dir():
      return json_documents.digest(agent.digests(artefact))
    if artefact.is_dir():
      described = weights.describe(artefact)
      sha256 = described.weights_sha256, described.start_states_sha256
      return json_documents.digest({artefact.name: sha256})
    return digests.of_file(artefact)


def _read(path: Path) -> Stamp | None:
  """Returns a stamp; None if there is none, or if it is damaged."""
  try:
    return json_documents.read(path, Stamp)
  except FileNotFoundError:
    return None
  except errors.DocumentError as error:
    logging.warning('Earlier times of a stage are lost: %s', error)
    return None


def relative(argument: str) -> str:
  """Makes the paths below `ROOT` in an argument of a command relative to it.

  Weights record the command, which so is the same on every machine.

  Args:
    argument: a path, `--flag=PATH`, or `--flag=JSON` with paths.
  """
  return re.sub(f'(^|[="]){re.escape(f"{ROOT}{os.sep}")}', r'\1', argument)


def python(module: str, *arguments: str) -> list[str]:
  """Returns the command that runs a module."""
  return ['python', '-m', module, *arguments]


def execute(command: Sequence[str]) -> None:
  """Runs a command with the programs from the folder of this Python.

  Raises:
    errors.UserError: it failed.
    KeyboardInterrupt: this process was stopped, and so the command.
  """
  programs = Path(sys.executable).parent
  environment = {
    **os.environ,
    'PATH': f'{programs}{os.pathsep}{os.environ["PATH"]}',
    'TF_CPP_MIN_LOG_LEVEL': '3',  # Silences TensorFlow.
  }
  process = subprocess.Popen(command, cwd=ROOT, env=environment)
  try:
    status = process.wait()
  except KeyboardInterrupt:  # A terminal sends it to the command, too.
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(_PATIENCE)
    process.terminate()
    process.wait()
    raise
  finally:
    process.kill()  # If the wait was interrupted again.
    process.wait()
  if status:
    raise errors.UserError(
      f'the command above failed with exit status {status}; once'
      ' its cause is removed, the same command continues from there'
    )
