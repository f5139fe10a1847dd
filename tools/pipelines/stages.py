"""Stages of a pipeline: commands that are run unless their results are there.

Each command is printed as a user would type it, so that a pipeline also
documents the steps.
"""

from collections.abc import Callable, Mapping, Sequence
import json
import os
from pathlib import Path
import re
import shlex
import signal
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
from tools.driving import drivers
from tools.driving import recorded_actions
from tools.driving import track_scores
from trainers import run_documents

Execute = Callable[[Sequence[str]], None]
ROOT = Path(__file__).parents[2]
_SECONDS = 'seconds.json'
_SIMULATOR = 'gymnasium'  # In which agents are recorded.


class _Seconds(json_documents.Document):
  """How long each stage took, with interrupted attempts, by title."""

  of_stage: dict[str, float]


class Pipeline:
  """Runs stages, whose times are kept in a folder.

  Attributes:
    data_dir: data directory of the datasets.
  """

  def __init__(self, output_dir: Path, total: int, execute: Execute):
    """Prepares a pipeline.

    Args:
      output_dir: folder of the pipeline, which exists.
      total: number of stages.
      execute: runs a command in `ROOT`; raises UserError if it fails.
    """
    self._execute = execute
    self.data_dir = output_dir / 'data'
    self._path = output_dir / _SECONDS
    self._total = total
    self._begun = 0

  def seconds(self) -> dict[str, float]:
    """Returns how long each stage took, over all calls, by title."""
    try:
      return json_documents.read(self._path, _Seconds).of_stage
    except FileNotFoundError:
      return {}
    except errors.DocumentError as error:
      logging.warning('Earlier times are lost: %s', error)
      return {}

  def run(self, title: str, done: bool, *commands: Sequence[str]) -> None:
    """Runs the commands of the next stage, unless it is done.

    Args:
      title: title of the stage.
      done: whether its results are there.
      *commands: programs with their arguments.

    Raises:
      errors.UserError: a command failed.
    """
    self._begun += 1
    head = f'{self._begun}/{self._total} {title}'
    if done:
      print(f'\n{head}: already done', flush=True)
      return
    print(f'\n{head}', flush=True)
    started = time.monotonic()
    try:
      for command in commands:
        command = [relative(part) for part in command]
        print(f'$ {shlex.join(command)}', flush=True)
        self._execute(command)
    finally:
      seconds = time.monotonic() - started
      earlier = self.seconds()
      total = round(earlier.get(title, 0) + seconds, 1)
      json_documents.write(self._path, {'of_stage': {**earlier, title: total}})
    print(f'({seconds:.0f} s)', flush=True)

  def build(
    self, title: str, dataset: str, config: Mapping[str, str | int]
  ) -> None:
    """Builds a dataset; see `run`.

    Args:
      title: title of the stage.
      dataset: name of the dataset.
      config: its config, with its `name`.
    """

    def check() -> None:
      built = prepared_dataset.find(
        f'{dataset}/{config["name"]}', self.data_dir
      )
      found = built.config
      for key, value in self._identity(config).items():
        if found.get(key) != value:
          raise errors.UserError(f'{built.folder} has another {key}')

    arguments = [f'datasets/{dataset}', f'--data_dir={self.data_dir}']
    arguments.append(f'--config={json.dumps(config)}')
    self.run(title, intact(check), ['tfds', 'build', *arguments])

  def _identity(self, config: Mapping[str, str | int]) -> dict[str, Any]:
    """Returns what a dataset records of its config: digests, not paths."""
    identity: dict[str, Any] = {**config}
    del identity['name']
    if (log := identity.pop('actions', None)) is not None:
      identity['actions_sha256'] = digests.of_file(log)
    if (rollouts := identity.pop('rollouts', None)) is not None:
      identity['rollouts_content_sha256'] = self._content(rollouts)
    if (vae := identity.pop('vae', None)) is not None:
      identity['vae_sha256'] = weights.describe(vae).weights_sha256
    return identity

  def _content(self, dataset: str) -> dict[str, str]:
    return prepared_dataset.find(dataset, self.data_dir).content_digests

  def train(
    self,
    title: str,
    model: str,
    workdir: Path,
    inputs: Mapping[str, Path],
    config_file: str | None = None,
    **config: Any,
  ) -> None:
    """Trains a model; see `run`.

    Args:
      title: title of the stage.
      model: `vae`, `mdn_rnn` or `controller`.
      workdir: folder of the run.
      inputs: other flags with paths, by name.
      config_file: name of its config; None: that of the model.
      **config: changed hyperparameters.
    """

    def check() -> None:
      wanted = run_documents.finished_metrics(workdir).weights_sha256
      run = run_documents.read_run(workdir)
      if run is None:
        raise FileNotFoundError
      if others := {*inputs} - {'data_dir'} - {*run.sources}:
        raise errors.UserError(f'{workdir} was made without {min(others)}')
      for role, source in run.sources.items():
        if (sha256 := source.sha256.get('weights')) is None:
          same = source.sha256 == self._content(source.name)
        else:
          same = (
            role in inputs
            and sha256 == weights.describe(inputs[role]).weights_sha256
          )
        if not same:
          raise errors.UserError(f'{workdir} was made with another {role}')
      if weights.describe(workdir / 'weights').weights_sha256 != wanted:
        raise errors.UserError(f'{workdir} holds other weights')
      if model == 'controller':
        agent.digests(workdir / 'agent')

    self.run(
      title,
      intact(check),
      python(
        f'trainers.train_{model}',
        f'--config=trainers/configs/{config_file or model}.py',
        f'--workdir={workdir}',
        *(f'--{flag}={path}' for flag, path in inputs.items()),
        *(f'--config.{key}={value}' for key, value in config.items()),
      ),
    )

  def record(
    self,
    title: str,
    agent_folder: Path,
    log: Path,
    *,
    noise: str,
    noise_share: float = 1.0,
    num_episodes: int,
    max_steps: int,
    seed: int,
  ) -> None:
    """Records an agent; see `run`.

    Args:
      title: title of the stage.
      agent_folder: folder of the agent.
      log: file of the log.
      noise: levels of noise, see `drivers.with_noise`.
      noise_share: share of the steps with noise.
      num_episodes: number of episodes.
      max_steps: most steps of an episode.
      seed: seed of the tracks and the noise.
    """

    def check() -> None:
      who = drivers.of_agent(agent_folder, noise, noise_share)
      plan = recorded_actions.Plan(
        tuple(who), agent_folder, seed, _SIMULATOR, max_steps
      )
      found = recorded_actions.find(plan, num_episodes, log)
      if found is None or len(found.actions) < num_episodes:
        raise FileNotFoundError(log)

    self.run(
      title,
      intact(check),
      python(
        'tools.record',
        f'--agent={agent_folder}',
        f'--noise={noise}',
        f'--noise_share={noise_share}',
        f'--episodes={num_episodes}',
        f'--max_steps={max_steps}',
        f'--seed={seed}',
        f'--simulator={_SIMULATOR}',
        f'--output={log}',
      ),
    )

  def score(
    self, title: str, agent_folder: Path, output_dir: Path, num_tracks: int
  ) -> None:
    """Scores an agent on test tracks; see `run`.

    Args:
      title: title of the stage.
      agent_folder: folder of the agent.
      output_dir: folder of the score.
      num_tracks: number of test tracks.
    """
    path = output_dir / track_scores.FILE
    self.run(
      title,
      intact(lambda: track_scores.of_agent(path, agent_folder)),
      python(
        'tools.evaluate',
        f'--agent={agent_folder}',
        f'--episodes={num_tracks}',
        f'--output_dir={output_dir}',
      ),
    )

  def train_world_model(
    self,
    titles: Sequence[str],
    folder: Path,
    *,
    rollouts: Mapping[str, str | int],
    max_steps: int,
    vae_steps: int,
    mdn_rnn_steps: int,
    **config: Any,
  ) -> dict[str, Path]:
    """Makes rollouts, V, their latents and M, four stages; see `run`.

    Args:
      titles: titles of the four stages, in this order.
      folder: folder of the runs of V and M.
      rollouts: config of the rollouts; the latents have the same name.
      max_steps: most steps of an episode.
      vae_steps: number of training steps of V.
      mdn_rnn_steps: number of training steps of M.
      **config: changed hyperparameters of both.

    Returns:
      The folders of the exported weights, by flag of the trainer of C.
    """
    name = rollouts['name']
    exported = {x: folder / x / 'weights' for x in ('vae', 'mdn_rnn')}
    data_dir = {'data_dir': self.data_dir}
    self.build(titles[0], 'carracing_rollouts', rollouts)
    self.train(
      titles[1],
      'vae',
      folder / 'vae',
      data_dir,
      dataset=f'carracing_rollouts/{name}',
      num_steps=vae_steps,
      **config,
    )
    latents = {
      'name': name,
      'rollouts': f'carracing_rollouts/{name}',
      'vae': str(exported['vae']),
    }
    self.build(titles[2], 'carracing_latents', latents)
    self.train(
      titles[3],
      'mdn_rnn',
      folder / 'mdn_rnn',
      data_dir,
      dataset=f'carracing_latents/{name}',
      window_steps=min(128, max_steps),
      num_steps=mdn_rnn_steps,
      **config,
    )
    return exported


def intact(check: Callable[[], object]) -> bool:
  """Returns whether results are there and whole, so that a stage is done.

  Damaged ones are left to the command of the stage, which names the damage.

  Args:
    check: reads the results; raises FileNotFoundError or UserError if it
      cannot.
  """
  try:
    check()
  except (FileNotFoundError, errors.UserError):
    return False
  return True


def relative(argument: str) -> str:
  """Makes the paths below `ROOT` in an argument of a command relative to it.

  Weights record the command, which so is the same on every machine.

  Args:
    argument: a path, `--flag=PATH`, or `--flag=JSON` with paths.
  """
  return re.sub(f'(^|[="]){re.escape(f"{ROOT}{os.sep}")}', r'\1', argument)


def claim(
  output_dir: Path,
  file: str,
  settings: json_documents.Document,
  growing: str | None = None,
) -> None:
  """Writes the settings of a pipeline to a new folder, or compares them.

  Args:
    output_dir: folder of the pipeline.
    file: name of the file that holds the settings.
    settings: settings of this call.
    growing: setting that may be larger than in earlier calls; None: there is
      none.

  Raises:
    errors.UserError: the folder cannot be written, or holds another pipeline.
  """
  path = files.claim_folder(output_dir) / file
  try:
    found = json_documents.read(path, type(settings))
  except FileNotFoundError:
    json_documents.write(path, settings.model_dump())
    return
  except errors.DocumentError as error:
    raise errors.UserError(
      f'{error}. If another version of this project wrote it, use that one;'
      ' if not, choose another --output_dir or delete that folder'
    ) from None
  wanted = settings.model_dump()
  differences = [
    f'{name}={value}, not {wanted[name]}'
    for name, value in found.model_dump().items()
    if value != wanted[name] and not (name == growing and value < wanted[name])
  ]
  if differences:
    raise errors.UserError(
      f'{output_dir} was begun with {"; ".join(differences)}; pass what it was'
      ' begun with, or choose another --output_dir'
    )
  json_documents.write(path, wanted)


def python(module: str, *arguments: str) -> list[str]:
  """Returns the command that runs a module."""
  return ['python', '-m', module, *arguments]


def execute(command: Sequence[str]) -> None:
  """Runs a command with the programs from the folder of this Python.

  Raises:
    errors.UserError: it failed.
  """
  programs = Path(sys.executable).parent
  environment = {
    **os.environ,
    'PATH': f'{programs}{os.pathsep}{os.environ["PATH"]}',
    'TF_CPP_MIN_LOG_LEVEL': '3',  # Silences TensorFlow.
  }
  process = subprocess.Popen(command, cwd=ROOT, env=environment)
  before = signal.signal(
    signal.SIGTERM, lambda number, _: process.send_signal(number)
  )
  try:
    status = process.wait()
  except KeyboardInterrupt:  # The terminal sends it to the command, too.
    process.wait()
    raise
  finally:
    signal.signal(signal.SIGTERM, before)
  if status == -signal.SIGTERM or status == 128 + signal.SIGTERM:
    sys.exit(128 + signal.SIGTERM)
  if status:
    raise errors.UserError(
      f'the command above failed with exit status {status}; once'
      ' its cause is removed, the same command continues from there'
    )
