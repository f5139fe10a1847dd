"""Evaluates an agent, or a built-in policy, on tracks that it has never seen.

  python -m tools.evaluate --episodes=100
  python -m tools.evaluate --agent=runs/controller/agent --episodes=100
  python -m tools.evaluate --policy=random_policy --output_dir=random_policy

Drives Gymnasium's CarRacing-v3 for at most 1,000 steps per track, without frame
skip or early stop. Prints a summary, and writes evaluation.json with the return
of every track and histogram.png to the output directory. It can be stopped at
any moment: the same command continues it, and prints the summary again once it
is finished. More --episodes extend a finished evaluation.
"""

from collections.abc import Sequence
import functools

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import errors
from carracing_rollouts import tracks
from etils import epy

with epy.lazy_imports():
  from carracing_data import processes
  from carracing_data import runtime
  from carracing_rollouts import scores
  from models import agent
  from tools.driving import drivers
  from tools.driving import track_scores

_AGENT = command_line.agent_flag()
_POLICY = flags.DEFINE_string(
  'policy',
  None,
  'Built-in policy to drive, e.g. random_policy or straight_ahead:gas=1; by'
  ' default an agent drives.',
)
_EPISODES = flags.DEFINE_integer(
  'episodes', 100, 'Number of tracks, the first ones of the set.', lower_bound=1
)
_TRACKS = flags.DEFINE_enum(
  'tracks',
  'development',
  sorted(tracks.SETS),
  'Set of tracks: development for scores of work in progress; final for the'
  ' score of a result, once; selection for choosing among agents.',
)
_NUM_WORKERS = command_line.num_workers_flag()
_OUTPUT_DIR = command_line.output_dir_flag('evaluation')


def main(argv: Sequence[str]) -> None:
  del argv
  if _AGENT.value is not None and _POLICY.value is not None:
    raise errors.UserError('pass --agent or --policy, not both')
  logging.info(
    'Evaluating %s on %d %s track%s.',
    _POLICY.value or command_line.agent_name(_AGENT.value),
    _EPISODES.value,
    _TRACKS.value,
    '' if _EPISODES.value == 1 else 's',
  )
  workers = _NUM_WORKERS.value or processes.num_cores()
  folder = None
  if _POLICY.value is not None:
    driver = drivers.of_policy(_POLICY.value)
  else:
    runtime.use_cpu()
    folder = agent.folder_of(_AGENT.value)
    agent.load(folder)  # Fails on parts that do not belong together.
    driver = drivers.of_agent(folder)
  result = track_scores.evaluate(
    driver,
    folder,
    _TRACKS.value,
    _EPISODES.value,
    _OUTPUT_DIR.value,
    functools.partial(processes.run_locally, num_workers=workers),
  )
  print(scores.describe(result.summary))


if __name__ == '__main__':
  command_line.run(main)
