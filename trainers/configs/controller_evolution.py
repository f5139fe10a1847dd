"""Config of C by evolution, after Ha & Schmidhuber, "World Models" (2018).

The paper evolves 64 candidates with CMA-ES, each on 16 tracks in a generation,
for 1,800 generations. One track, the same for all candidates, learns faster per
step; and of the covariance only the diagonal, which is all that can be learnt
of 867 numbers in so few generations.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.method = 'evolution'
  config.seed = 0

  # What C sees: `z,h`, or `z` alone.
  config.features = 'z,h'

  # Driving. A step of the run is a generation.
  config.simulator = 'sketched'
  config.num_cars = 32  # Candidates in a generation.
  config.tracks_per_step = 1  # Tracks on which each candidate drives.
  config.stuck_steps = 60  # Steps without a new tile that end an episode.

  # Evolution.
  config.initial_deviation = 0.1  # Of the weights for standardised features.
  config.num_steps = 200

  # Cadence, in steps of the run.
  config.log_every_steps = 5
  config.eval_every_steps = 40
  config.selection_tracks = 32
  config.checkpoint_every_steps = 20
  return config
