"""Trains V, M and C from scratch; C learns to drive in dreams alone.

  python -m tools.dream_rounds --output_dir=dream_rounds

V, M and the first C know nothing but episodes of a random policy. In each round
the newest C drives, with and without noise, and is recorded; M is trained on
with what was recorded; and C is trained on in its dreams. The simulator only
records and keeps the score: at the end the C with the best score on selection
tracks drives the test tracks. Prints each command that it runs. The same
command skips finished stages and continues an interrupted one; with more
--rounds it goes on from the last one.
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
  from tools.pipelines import rounds_of_dreams
  from tools.pipelines import stages

_OUTPUT_DIR = command_line.output_dir_flag('dream_rounds')


def _count(
  name: str, default: int, description: str, least: int = 1
) -> flags.FlagHolder[int]:
  return flags.DEFINE_integer(name, default, description, least, 1_000_000)


_ROUNDS = flags.DEFINE_integer(
  'rounds', 8, 'Number of rounds of recording.', 0, 100
)
_SEED = flags.DEFINE_integer(
  'seed', 0, 'Seed of all random draws.', 0, 1_000_000
)
_RANDOM_EPISODES = _count(
  'random_episodes', 30, 'Number of episodes of the random policy.', 2
)
_DRIVEN_EPISODES = _count(
  'driven_episodes', 48, 'Number of recorded episodes in a round.', 2
)
_NOISE = flags.DEFINE_string(
  'noise', '0,0.5,1', 'Levels of noise in turns; see tools.record.'
)
_NOISE_SHARE = flags.DEFINE_float(
  'noise_share', 0.25, 'Share of the steps with noise; see tools.record.'
)
_MAX_STEPS = _count('max_steps', 1000, 'Maximum steps per episode.')
_VAE_STEPS = _count('vae_steps', 3000, 'Training steps of V.')
_FIRST_MDN_RNN_STEPS = _count(
  'first_mdn_rnn_steps', 4000, 'Training steps of M on random episodes.'
)
_MDN_RNN_STEPS = _count(
  'mdn_rnn_steps', 1300, 'Training steps of M in each round.'
)
_CONTROLLER_STEPS = _count(
  'controller_steps', 122, 'Training steps of C, at first and in each round.'
)
_NUM_TRACKS = flags.DEFINE_integer(
  'num_tracks', 100, 'Number of test tracks.', 1, len(tracks.TEST)
)


def main(argv: Sequence[str]) -> None:
  del argv
  logging.info('Making an agent in dreams, into %s.', _OUTPUT_DIR.value)
  noise_share = _NOISE_SHARE.value
  drivers.with_noise(_NOISE.value, noise_share)
  settings = rounds_of_dreams.Settings(
    rounds=_ROUNDS.value,
    seed=_SEED.value,
    random_episodes=_RANDOM_EPISODES.value,
    driven_episodes=_DRIVEN_EPISODES.value,
    noise=_NOISE.value,
    noise_share=noise_share,
    max_steps=_MAX_STEPS.value,
    vae_steps=_VAE_STEPS.value,
    first_mdn_rnn_steps=_FIRST_MDN_RNN_STEPS.value,
    mdn_rnn_steps=_MDN_RNN_STEPS.value,
    controller_steps=_CONTROLLER_STEPS.value,
    num_tracks=_NUM_TRACKS.value,
  )
  output_dir = files.expand(_OUTPUT_DIR.value)
  print(rounds_of_dreams.make(output_dir, settings, stages.execute))


if __name__ == '__main__':
  command_line.run(main)
