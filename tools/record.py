r"""Records what an agent, a policy or a person drives as an action log.

  python -m tools.record --agent=runs/controller/agent --output=driven.npz
  python -m tools.record --agent=... --noise=0,0.3 --interventions=0,0.02 \
      --output=disturbed.npz
  python -m tools.record --driver=keyboard --episodes=10 --output=mine.npz

A log holds the track, the actions and the return of every episode, some 8 kB
each. A dataset is built from it by replaying the actions, on any machine and
without the agent:

  tfds build datasets/carracing_rollouts --config '{"name": "recorded",
    "policy": "recorded", "actions": "driven.npz"}'

Recording can be stopped at any moment and loses only the batches of 8 episodes
under way: the same command goes on. More --episodes extend a finished log,
which then equals one that was recorded at once.
"""

from collections.abc import Sequence
import functools

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import errors
from carracing_data import files
from etils import epy

with epy.lazy_imports():
  from carracing_data import processes
  from carracing_data import runtime
  from carracing_rollouts import action_log
  from carracing_rollouts import environment
  from models import agent
  from tools.driving import drivers
  from tools.driving import keyboard
  from tools.driving import recorded_actions

_AGENT = flags.DEFINE_string(
  'agent',
  None,
  'Folder of an agent that drives, with vae/, mdn_rnn/ and controller/. One of'
  ' --agent, --policy and --driver is required.',
)
_NOISE = flags.DEFINE_string(
  'noise',
  '0',
  "Levels of noise on an agent's actions: standard deviations of what is added"
  ' to steering −1..1, gas and brake 0..1. Episodes take turns. At 0.3 the car'
  ' often leaves the road.',
)
_NOISE_SHARE = flags.DEFINE_float(
  'noise_share',
  1.0,
  'Share of the steps with noise on average, above 0 and up to 1. Below 1 it'
  ' comes in spells of 20 steps, between which the agent recovers.',
)
_INTERVENTIONS = flags.DEFINE_string(
  'interventions',
  '0',
  'Probability that an intervention begins at a step: a random action that is'
  ' imposed for 5 to 300 steps. So a model learns what actions do, whatever the'
  ' driver would have done; 0.02 is a good start. With several ones, episodes'
  ' take turns, in all combinations with --noise.',
)
_POLICY = flags.DEFINE_string(
  'policy',
  None,
  'Built-in policy that drives, e.g. random_policy; by default none.',
)
_DRIVER = flags.DEFINE_enum(
  'driver',
  None,
  ['keyboard'],
  'With keyboard, a person drives in a window; by default nobody does.',
)
_EPISODES = flags.DEFINE_integer(
  'episodes',
  100,
  'Number of episodes; the last tenth (at least one) is for validation.',
  lower_bound=2,
  upper_bound=1_000_000,
)
_SEED = flags.DEFINE_integer(
  'seed',
  1,
  'Seed of the tracks and the noise; 0 gives tracks of the default dataset.',
  lower_bound=0,
  upper_bound=2**63 - 1,
)
_MAX_STEPS = flags.DEFINE_integer(
  'max_steps',
  1000,
  'Steps after which an episode is truncated.',
  lower_bound=1,
  upper_bound=1_000_000,
)
_SIMULATOR = flags.DEFINE_string(
  'simulator', 'gymnasium', 'Simulator that is driven: gymnasium or sketched.'
)
_NUM_WORKERS = command_line.num_workers_flag()
_OUTPUT = flags.DEFINE_string(
  'output', None, 'File of the log; required.', required=True
)


def main(argv: Sequence[str]) -> None:
  del argv
  given = [_AGENT.value, _POLICY.value, _DRIVER.value]
  if sum(value is not None for value in given) != 1:
    raise errors.UserError('pass one of --agent, --policy and --driver')
  [driver] = (value for value in given if value is not None)
  logging.info('Recording %d episodes of %s.', _EPISODES.value, driver)
  if _AGENT.value is None and (_NOISE.value, _NOISE_SHARE.value) != ('0', 1):
    raise errors.UserError('--noise and --noise_share need --agent')
  disturbances = drivers.Disturbances(
    _NOISE.value, _NOISE_SHARE.value, _INTERVENTIONS.value
  )
  disturbances.of(action_log.Driver(name=drivers.AGENT))
  simulator = environment.check_simulator(_SIMULATOR.value)
  output = files.claim_file(files.expand(_OUTPUT.value))
  workers = _NUM_WORKERS.value or processes.num_cores()
  folder = None
  if _AGENT.value is not None:
    runtime.use_cpu()
    folder = files.expand(_AGENT.value)
    agent.load(folder)  # Fails on parts that do not belong together.
    who = drivers.of_agent(folder)
  elif _DRIVER.value is not None:
    if (
      simulator != 'gymnasium'
      or _NUM_WORKERS.value is not None
      or _INTERVENTIONS.value != '0'
    ):
      raise errors.UserError(
        '--driver=keyboard shows the stock game in one window: leave out'
        ' --simulator, --num_workers and --interventions'
      )
    workers, who = 1, action_log.Driver(name=keyboard.NAME)
  else:
    who = drivers.of_policy(driver)
  plan = recorded_actions.Plan(
    tuple(disturbances.of(who)),
    folder,
    _SEED.value,
    simulator,
    _MAX_STEPS.value,
  )
  execute = functools.partial(processes.run_locally, num_workers=workers)
  try:
    log = recorded_actions.record(plan, _EPISODES.value, output, execute)
  except keyboard.Stopped:
    print(
      'Stopped; the episode under way is not recorded. The same command goes'
      ' on, and with fewer --episodes makes a log of what is there.'
    )
    return
  for line in recorded_actions.describe(log, output):
    print(line)


if __name__ == '__main__':
  command_line.run(main)
