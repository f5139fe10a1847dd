"""Seeds of the tracks on which controllers are trained, selected and tested.

The sets are disjoint from each other and from the tracks of datasets, whose
seeds have 31 bits.
"""

import numpy as np

_TRAINING = 2**31, 2**32  # First seed, and the first one after the last.
# Tracks on which one of several controllers is selected.
SELECTION = range(5_000_000_000, 5_000_001_000)
# Tracks of published scores; a score over N tracks is over the first N.
TEST = range(6_000_000_000, 6_000_100_000)
SETS = {'selection': SELECTION, 'test': TEST}


def training(rng: np.random.Generator) -> int:
  """Draws the seed of a training track."""
  return int(rng.integers(*_TRAINING))
