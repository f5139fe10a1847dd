"""Makes the agent from nothing, in two rounds.

  python -m tools.two_rounds --output_dir=two_rounds

At first V and M are trained on episodes of a random policy, and C on them in
the simulator. Then this agent drives, with and without noise and interventions,
and is recorded; V, M and C are trained once more, on random and recorded
episodes. The C with the better score on selection tracks drives the development
tracks. --config.rounds=0 makes the first agent alone. Prints each command that
it runs. The same command skips finished stages and continues an interrupted
one; with more --config.rounds it goes on from the last one.
"""

from tools.pipelines import settings

SETTINGS = settings.Settings(
  rounds=1, random_episodes=100, vae_steps=4000, mdn_rnn_steps=2000
)

if __name__ == '__main__':
  settings.run('two_rounds', SETTINGS)
