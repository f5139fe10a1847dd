"""Trains V, M and C from scratch; C learns to drive in dreams alone.

  python -m tools.dream_rounds --output_dir=dream_rounds

V, M and the first C know nothing but episodes of a random policy. In each round
the newest C drives, with and without noise and interventions, and is recorded;
M is trained on with what was recorded; and C is trained on in its dreams. The
simulator only records and keeps the score: at the end the C with the best score
on selection tracks drives the development tracks. Prints each command that it
runs. The same command skips finished stages and continues an interrupted one;
with more --config.rounds it goes on from the last one.
"""

from tools.pipelines import settings

SETTINGS = settings.Settings(
  rounds=8,
  dreams=True,
  driven_episodes=60,  # For validation one of each disturbance.
  noise='0,0.5,1',
  noise_share=0.25,
  mdn_rnn_steps=4000,
  later_mdn_rnn_steps=1300,
  controller_steps=122,
)

if __name__ == '__main__':
  settings.run('dream_rounds', SETTINGS)
