"""Settings of a pipeline: flags of its binary, document in its folder."""

from __future__ import annotations  # Types of modules that load lazily.

from collections.abc import Callable, Sequence
from pathlib import Path
import sys
from typing import Annotated

from absl import logging
from carracing_data import command_line
from carracing_data import errors
from carracing_data import extras
from carracing_data import files
from carracing_data import json_documents
from carracing_rollouts import tracks
from etils import epy
import pydantic
from trainers import common_flags
from trainers.configs import base
from trainers.configs import controller

with epy.lazy_imports():
  from carracing_rollouts import action_log
  from tools.driving import drivers
  from tools.pipelines import recipe
  from tools.pipelines import stages

FILE = 'pipeline.json'  # The settings, in the folder of a pipeline.
_FILES_OF_EARLIER_CODE = 'demo.json', 'two_rounds.json', 'dream_rounds.json'
_Episodes = Annotated[int, pydantic.Field(ge=2, le=1_000_000)]


class Settings(json_documents.Document):
  """What a pipeline makes; the comment of each field is its description."""

  model_config = pydantic.ConfigDict(use_attribute_docstrings=True)

  rounds: Annotated[int, pydantic.Field(ge=0, le=100)] = 1
  """Rounds of recording the newest C and training again."""
  seed: Annotated[int, pydantic.Field(ge=0, le=1_000_000)] = 0
  """Seed of all random draws."""
  dreams: bool = False
  """C learns in dreams; a round keeps V and trains M and C on. False: C learns
  in the simulator, and a round trains V, M and C anew."""
  random_episodes: _Episodes = 30
  """Episodes of the random policy."""
  random_interventions: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.02
  """Probability that an intervention begins at a step of theirs."""
  driven_episodes: _Episodes = 160
  """Recorded episodes in a round."""
  noise: str = '0,0.3'
  """Levels of noise on recorded actions, in turns; see tools.record."""
  noise_share: float = 1.0
  """Share of the steps with noise; see tools.record."""
  interventions: str = '0,0.02'
  """Probabilities of interventions on recorded actions, in turns; see
  tools.record."""
  max_steps: Annotated[int, pydantic.Field(ge=4, le=1_000_000)] = 1000
  """Maximum steps per episode of the datasets."""
  vae_steps: base.Steps = 3000
  """Training steps of V."""
  mdn_rnn_steps: base.Steps = 1000
  """Training steps of M on random episodes."""
  later_mdn_rnn_steps: base.Steps = 4000
  """Training steps of M in a round."""
  controller_steps: base.Steps = controller.Config().num_steps
  """Training steps of C, at first and in a round."""
  speed_penalty: controller.Bounded = controller.Config().speed_penalty
  """Penalty per step at speed 100, where C learns in the simulator; a short
  training needs a higher one."""
  selection_tracks: Annotated[
    int, pydantic.Field(ge=16, le=992, multiple_of=16)
  ] = 32
  """Tracks on which C is evaluated in training; they select the best C."""
  num_tracks: Annotated[
    int, pydantic.Field(ge=1, le=len(tracks.DEVELOPMENT))
  ] = 100
  """Development tracks of the best C."""


def run(
  name: str,
  defaults: Settings,
  make: Callable[[stages.Pipeline, Settings], str] | None = None,
) -> None:
  """Runs the binary of a pipeline; `make` is `recipe.make` if None.

  `name` is the default of `--output_dir`, `defaults` are those of
  `--config.KEY=VALUE`.
  """
  output_dir = command_line.output_dir_flag(name)
  config = base.config_dict(defaults)
  try:
    common_flags.check_keys(sys.argv, config, 'see --help')
  except errors.UserError as error:
    command_line.exit_with_usage(error)
  config = common_flags.define_config(
    config,
    'Settings: --config.KEY=VALUE changes one of them. The keys, with their'
    ' defaults:\n\n' + base.described(defaults),
  )

  def main(argv: Sequence[str]) -> None:
    del argv
    logging.info('Making an agent from nothing, into %s.', output_dir.value)
    extras.check('build', 'train')
    settings = base.validated(config.value, Settings)
    try:
      drivers.Disturbances(
        settings.noise, settings.noise_share, settings.interventions
      ).of(action_log.Driver(name=drivers.AGENT))
    except errors.UserError as error:
      # The keys of the config have the names of the flags of tools.record.
      raise errors.UserError(str(error).replace('--', '--config.')) from None
    folder = files.expand(output_dir.value)
    print(make_in(folder, settings, make or recipe.make, stages.execute))

  command_line.run(main)


def make_in(
  folder: Path,
  settings: Settings,
  make: Callable[[stages.Pipeline, Settings], str],
  execute: stages.Execute,
) -> str:
  """Runs every unfinished stage; writes and returns the summary of `make`.

  `execute` runs a command, as `stages.execute`.

  Raises:
    errors.UserError: a stage failed, or the folder cannot be written or was
      begun with other settings.
  """
  claim(folder, settings)
  pipeline = stages.Pipeline(folder.absolute(), execute)
  summary = make(pipeline, settings)
  files.replace_text(folder / 'summary.txt', summary)
  return summary


def claim(folder: Path, settings: Settings) -> None:
  """Writes the settings to a new folder, or compares them; rounds may grow.

  Raises:
    errors.UserError: the folder cannot be written, or was begun with other
      settings.
  """
  path = files.claim_folder(folder) / FILE
  for earlier in _FILES_OF_EARLIER_CODE:
    if (folder / earlier).exists():
      raise errors.UserError(
        f'{folder} was begun by an earlier version of this project, which'
        f' wrote {earlier}; choose another --output_dir'
      )
  wanted = settings.model_dump()
  found = {}
  try:
    read = json_documents.read(path, Settings)
    if missing := wanted.keys() - read.model_fields_set:
      raise errors.UserError(
        f'{folder} was begun by an earlier version of this project, without'
        f' {", ".join(sorted(missing))}; choose another --output_dir'
      )
    found = read.model_dump()
  except FileNotFoundError:
    pass
  except errors.DocumentError as error:
    raise errors.UserError(
      f'{error}. If another version of this project wrote it, use that one;'
      ' if not, choose another --output_dir or delete that folder'
    ) from None
  differences = [
    f'{key}={value}, not {wanted[key]}'
    for key, value in found.items()
    if value != wanted[key] and not (key == 'rounds' and value < wanted[key])
  ]
  if differences:
    raise errors.UserError(
      f'{folder} was begun with {"; ".join(differences)}; pass what it was'
      ' begun with, or choose another --output_dir'
    )
  if found != wanted:
    json_documents.write(path, wanted)
