"""Makes the agent from nothing, in two rounds.

  python -m tools.two_rounds --output_dir=two_rounds

Round one is what the defaults make: V and M are trained on episodes of a random
policy, and C on them. Then this agent drives, with and without noise, and is
recorded. Round two trains V, M and C once more, on what was recorded together
with random episodes, and is evaluated. Prints each command that it runs.
The same command skips finished stages and continues an interrupted one.
"""

from collections.abc import Sequence

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import files
from carracing_rollouts import tracks
from etils import epy

with epy.lazy_imports():
  from tools.driving import drivers
  from tools.pipelines import rounds
  from tools.pipelines import stages

_OUTPUT_DIR = command_line.output_dir_flag('two_rounds')


def _count(
  name: str, default: int, description: str, most: int = 10_000_000
) -> flags.FlagHolder[int]:
  return flags.DEFINE_integer(name, default, description, 1, most)


_RANDOM_EPISODES = flags.DEFINE_integer(
  'random_episodes',
  30,
  'Number of episodes of the random policy, in each round.',
  2,
  1_000_000,
)
_DRIVEN_EPISODES = flags.DEFINE_integer(
  'driven_episodes', 120, 'Number of recorded episodes.', 2, 1_000_000
)
_NOISE = flags.DEFINE_string(
  'noise', '0,0.3', 'Levels of noise in turns; see tools.record.'
)
_MAX_STEPS = _count('max_steps', 1000, 'Maximum steps per episode.', 1_000_000)
_VAE_STEPS = _count('vae_steps', 3000, 'Training steps of V, in each round.')
_MDN_RNN_STEPS = _count(
  'mdn_rnn_steps', 1000, 'Training steps of M, in each round.'
)
_CONTROLLER_STEPS = _count(
  'controller_steps', 600, 'Training steps of C, in each round.'
)
_NUM_TRACKS = _count(
  'num_tracks', 100, 'Number of test tracks.', len(tracks.TEST)
)


def main(argv: Sequence[str]) -> None:
  del argv
  logging.info('Making an agent in two rounds, into %s.', _OUTPUT_DIR.value)
  drivers.with_noise(_NOISE.value)
  settings = rounds.Settings(
    random_episodes=_RANDOM_EPISODES.value,
    driven_episodes=_DRIVEN_EPISODES.value,
    noise=_NOISE.value,
    max_steps=_MAX_STEPS.value,
    vae_steps=_VAE_STEPS.value,
    mdn_rnn_steps=_MDN_RNN_STEPS.value,
    controller_steps=_CONTROLLER_STEPS.value,
    num_tracks=_NUM_TRACKS.value,
  )
  print(rounds.make(files.expand(_OUTPUT_DIR.value), settings, stages.execute))


if __name__ == '__main__':
  command_line.run(main)
