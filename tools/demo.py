"""Runs the whole pipeline once at a small scale, from simulator to driver.

  python -m tools.demo --output_dir=demo

Builds rollouts, trains a VAE, builds latents, trains an MDN-RNN, saves pictures
and a dream to the output directory, trains a controller, lets it drive tracks
that it has never seen, and writes a report of it all. Prints each command that
it runs.
The same command skips finished stages and continues an interrupted one.
"""

from collections.abc import Sequence

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import files
from etils import epy

with epy.lazy_imports():
  from tools.pipelines import demonstration
  from tools.pipelines import stages

_OUTPUT_DIR = command_line.output_dir_flag('demo')
_NUM_EPISODES = flags.DEFINE_integer(
  'num_episodes', 30, 'Number of episodes.', 2, 100_000
)
_MAX_STEPS = flags.DEFINE_integer(
  'max_steps', 400, 'Maximum steps per episode.', 4, 100_000
)
_VAE_STEPS = flags.DEFINE_integer(
  'vae_steps', 1500, 'Number of training steps of the VAE.', 1, 10_000_000
)
_MDN_RNN_STEPS = flags.DEFINE_integer(
  'mdn_rnn_steps',
  800,
  'Number of training steps of the MDN-RNN.',
  1,
  10_000_000,
)
_CONTROLLER_STEPS = flags.DEFINE_integer(
  'controller_steps',
  500,
  'Number of training steps of the controller.',
  1,
  10_000_000,
)
_NUM_TRACKS = flags.DEFINE_integer(
  'num_tracks',
  16,
  'Number of unseen tracks on which the controller is evaluated.',
  1,
  100_000,
)


def main(argv: Sequence[str]) -> None:
  del argv
  logging.info('Running the pipeline once, into %s.', _OUTPUT_DIR.value)
  settings = demonstration.Settings(
    num_episodes=_NUM_EPISODES.value,
    max_steps=_MAX_STEPS.value,
    vae_steps=_VAE_STEPS.value,
    mdn_rnn_steps=_MDN_RNN_STEPS.value,
    controller_steps=_CONTROLLER_STEPS.value,
    num_tracks=_NUM_TRACKS.value,
  )
  summary = demonstration.make(
    files.expand(_OUTPUT_DIR.value), settings, stages.execute
  )
  print(summary)


if __name__ == '__main__':
  command_line.run(main)
