r"""Measures whether dreams rank drivers as the game does.

  python -m tools.dream_fidelity
  python -m tools.dream_fidelity --agent=runs/controller/agent \
      --mdn_rnn=runs/other_mdn_rnn/weights --output_dir=fidelity
  python -m tools.dream_fidelity --drivers=held_out \
      --output_dir=fidelity/held_out

A set of drivers, from doing nothing to the agent itself, takes over from the
agent at step 60 of the same tracks, in the game and in dreams. Prints
a table of their rewards, and how well the two correlate; writes it as
fidelity.json, with a picture, to the output directory. It can be stopped at any
moment: the same command goes on. What was driven is kept there, in driven/, so
measuring another M in the same directory takes a minute; its results replace
those before.
"""

from collections.abc import Sequence
import functools
import math

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import files
from etils import epy

with epy.lazy_imports():
  from carracing_data import json_documents
  from carracing_data import processes
  from carracing_data import runtime
  from carracing_rollouts import tracks
  import jax
  from models import agent as agent_lib
  from models import weights
  from models import world_model
  from tools.dream_fidelity import comparison
  from tools.dream_fidelity import documents
  from tools.dream_fidelity import tables
  from tools.driving import probes
  from tools.showing import markdown

_AGENT = command_line.agent_flag()
_MDN_RNN = flags.DEFINE_string(
  'mdn_rnn',
  None,
  'Folder of the exported weights of the M that dreams; by default that of the'
  ' agent.',
)
_DRIVERS = flags.DEFINE_enum(
  'drivers',
  'development',
  ['development', 'held_out'],
  'Set of drivers: the one with which it is chosen what makes dreams better, or'
  ' the one that is for results alone.',
)
_NUM_TRACKS = flags.DEFINE_integer(
  'num_tracks',
  32,
  'Number of tracks, the first ones of the selection tracks.',
  lower_bound=2,
  upper_bound=1000,
)
_MAX_STEPS = flags.DEFINE_integer(
  'max_steps',
  1000,
  'Steps of an episode, of which the agent drives the first 60.',
  lower_bound=61,
  upper_bound=1_000_000,
)
_TEMPERATURE = flags.DEFINE_float(
  'temperature',
  1.0,
  'Temperature of the dreams.',
  lower_bound=0.0,
  upper_bound=100.0,
)
_NOISE = flags.DEFINE_float(
  'noise',
  0.0,  # As of CarRacingDream-v0.
  'Factor of the noise around what the dreams draw, see CarRacingDream-v0.',
  lower_bound=0.0,
  upper_bound=100.0,
)
for _name in 'temperature', 'noise':
  flags.register_validator(_name, math.isfinite, 'It must be finite.')
_SEED = flags.DEFINE_integer(
  'seed', 0, 'Random seed of the dreams.', lower_bound=0, upper_bound=2**32 - 1
)
_NUM_WORKERS = command_line.num_workers_flag()
_OUTPUT_DIR = command_line.output_dir_flag('fidelity')
_DREAMS_PER_TRACK = 4


def main(argv: Sequence[str]) -> None:
  del argv
  logging.info(
    'Comparing dreams with the game, from %d tracks, with %s.',
    _NUM_TRACKS.value,
    command_line.agent_name(_AGENT.value),
  )
  runtime.prepare()
  folder = agent_lib.folder_of(_AGENT.value)
  agent = agent_lib.load(folder)
  model = agent.model
  mdn_rnn = folder / 'mdn_rnn'
  if _MDN_RNN.value is not None:
    mdn_rnn = files.expand(_MDN_RNN.value)
    model = world_model.load(folder / 'vae', mdn_rnn)
  world_model.check_dreams(model, mdn_rnn)
  compared = probes.SETS[_DRIVERS.value]
  subject = documents.Subject(
    drivers=_DRIVERS.value,
    agent=agent_lib.digests(folder),
    mdn_rnn=weights.describe(mdn_rnn).weights_sha256,
    temperature=_TEMPERATURE.value,
    noise=_NOISE.value,
    seed=_SEED.value,
    dreams_per_track=_DREAMS_PER_TRACK,
    max_steps=_MAX_STEPS.value,
  )
  output_dir = files.claim_folder(files.expand(_OUTPUT_DIR.value))
  driven = files.claim_folder(output_dir / 'driven')
  workers = _NUM_WORKERS.value or processes.num_cores()
  seeds = tracks.SELECTION[: _NUM_TRACKS.value]
  with files.locked(output_dir), files.write_errors(output_dir):
    game, actions = comparison.drive(
      compared,
      folder,
      seeds,
      driven,
      functools.partial(processes.run_locally, num_workers=workers),
      _MAX_STEPS.value,
    )
    z = comparison.watched(model, seeds, actions)
    dreamt = comparison.dream(
      compared,
      agent,
      model,
      z,
      actions,
      jax.random.key(_SEED.value),
      dreams_per_track=_DREAMS_PER_TRACK,
      num_steps=_MAX_STEPS.value - probes.TAKES_OVER,
      temperature=_TEMPERATURE.value,
      noise=_NOISE.value,
    )
    found = comparison.compare(subject, game, dreamt)
    picture = tables.plot(found)
    files.replace(
      output_dir / 'fidelity.png',
      lambda file: picture.savefig(file, format='png'),
    )
    json_documents.write(output_dir / documents.FILE, found.model_dump())
  print(markdown.table(*tables.of_drivers(found)))
  print()
  print(tables.summary(found))


if __name__ == '__main__':
  command_line.run(main)
