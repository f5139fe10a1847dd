"""Lets a person drive, or watch the agent, in the game or in a dream.

  python -m tools.play
  python -m tools.play --where=dream --temperature=1.15
  python -m tools.play --driver=agent --track=7

A window shows the game, V's reconstruction of it, and a dream of M that takes
the same actions and restarts from the game every two seconds. With
--where=dream there is no game: M dreams on from a real moment, and the return
is the sum of the rewards that M expects. Beside it runs another dream, with
other random draws. A dream ends when M holds termination likelier than not.

The arrow keys, or A, D, W and S, steer, accelerate and brake; C hands over to
the agent and back; T and Shift+T change the temperature of the dreams; R
restarts, on the next track or from another start state; the space bar pauses;
Esc leaves. The game's time limit of 1,000 steps is shown but does not end the
episode.
"""

from collections.abc import Sequence
import math

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import errors
from carracing_rollouts import tracks
from etils import epy

with epy.lazy_imports():
  from carracing_data import runtime
  from models import agent
  from models import start_states
  from tools.play import window
  from tools.play import worlds

_AGENT = command_line.agent_flag()
_WHERE = flags.DEFINE_enum(
  'where',
  'real',
  ['real', 'dream'],
  'Drive in the game (real) or in a dream of M.',
)
_DRIVER = flags.DEFINE_enum(
  'driver', 'person', ['person', 'agent'], 'Who drives first.'
)
_TRACK = flags.DEFINE_integer(
  'track',
  None,
  'Game: index of the first track in the development set; defaults to 0.',
  lower_bound=0,
  upper_bound=len(tracks.DEVELOPMENT) - 1,
)
_SEED = flags.DEFINE_integer(
  'seed',
  None,
  'Dream: random seed of the first start state and its draws; defaults to 0.',
  lower_bound=0,
  upper_bound=2**31 - 1,
)
_TEMPERATURE = flags.DEFINE_float(
  'temperature',
  1.0,
  'First sampling temperature of the dreams. Below 1 they are less random than'
  ' the model predicts.',
  upper_bound=100,
)
flags.register_validator(
  'temperature',
  lambda x: math.isfinite(x) and x > 0,
  'It must be positive and finite.',
)
_MAX_FRAMES = flags.DEFINE_integer(
  'max_frames',
  None,
  'Number of frames after which the window closes; by default it stays open.',
  lower_bound=1,
)


def main(argv: Sequence[str]) -> None:
  del argv
  dreams = _WHERE.value == 'dream'
  if (_TRACK if dreams else _SEED).value is not None:
    raise errors.UserError(
      'a dream has no track; pass --seed instead of --track'
      if dreams
      else '--seed is for --where=dream; pass --track to choose a track'
    )
  logging.info(
    'Opening the %s with %s.',
    'dream' if dreams else 'game',
    command_line.agent_name(_AGENT.value),
  )
  runtime.prepare()
  folder = agent.folder_of(_AGENT.value)
  driver = agent.load(folder)
  if dreams:
    world = worlds.Dream(driver, start_states.load(folder / 'mdn_rnn'))
  else:
    world = worlds.Game(driver)
  opened = window.Window(
    world,
    (_SEED if dreams else _TRACK).value or 0,
    _DRIVER.value == 'agent',
    _TEMPERATURE.value,
  )
  try:
    opened.run(_MAX_FRAMES.value)
  finally:
    opened.close()
    world.close()
  view = opened.view
  if view.total is not None:
    print(f'{world.total_name} {view.total:.1f} after {view.step} steps')


if __name__ == '__main__':
  command_line.run(main)
