"""Drives a track with an agent and shows what it sees and expects.

  python -m tools.drive --track=0
  python -m tools.drive --agent=runs/controller/agent

Drives a development track in the exact simulator, prints the return, and writes
drive.mp4, in real time, and drive.png, a few moments, to the output directory:
the simulator's frame without its dashboard; its observation's reconstruction by
V; and the frame that M expected one step before.
"""

from collections.abc import Sequence

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import files
from carracing_rollouts import tracks
from etils import epy

with epy.lazy_imports():
  from carracing_data import runtime
  from carracing_rollouts import environment
  from models import agent
  from tools.drive import filming

_AGENT = command_line.agent_flag()
_TRACK = flags.DEFINE_integer(
  'track',
  0,
  'Index of the track in the development set.',
  lower_bound=0,
  upper_bound=len(tracks.DEVELOPMENT) - 1,
)
_OUTPUT_DIR = command_line.output_dir_flag('drive')


def main(argv: Sequence[str]) -> None:
  del argv
  logging.info(
    'Driving development track %d with %s.',
    _TRACK.value,
    command_line.agent_name(_AGENT.value),
  )
  runtime.prepare()
  runtime.use_cpu()  # Other devices round, and so drive, otherwise.
  driver = agent.load(agent.folder_of(_AGENT.value))
  output_dir = files.claim_folder(files.expand(_OUTPUT_DIR.value))
  frames, driven = filming.drive(
    driver, tracks.DEVELOPMENT[_TRACK.value], environment.MAX_STEPS
  )
  result = (
    f'Development track {_TRACK.value}: return {driven.scores()[-1]:.1f} after'
    f' {len(driven.action)} steps, {driven.ending()}'
  )
  panels = filming.show(driver.model, frames, driven.action)
  saved = filming.save(driven, panels, result, output_dir)
  print(result)
  logging.info('Saved %s', ' and '.join(map(str, saved)))


if __name__ == '__main__':
  command_line.run(main)
