"""Seeds of the tracks of datasets, and of training, selection and scores.

The sets are disjoint from each other, and so are the splits of datasets. In
version 1, the seeds of datasets had 31 bits.
"""

import numpy as np

_DATASETS = 2**52  # To 2**53: the largest that JavaScript tells apart.
_TRAINING = 2**31, 2**32  # First seed, and the first one after the last.
# Tracks on which one of several controllers is selected.
SELECTION = range(5_000_000_000, 5_000_001_000)
# Tracks of scores; a score over N tracks is over the first N.
_TEST = range(6_000_000_000, 6_000_100_000)
# Those that have guided choices in the development of this project.
DEVELOPMENT = _TEST[:10_000]
# Those of the scores that this project claims; no choice depends on them.
FINAL = _TEST[10_000:11_000]
SETS = {'selection': SELECTION, 'development': DEVELOPMENT, 'final': FINAL}
# Evaluations of earlier versions, when there were no final tracks.
EARLIER_SETS = {'test': _TEST}


def training(rng: np.random.Generator) -> int:
  """Draws the seed of a training track."""
  return int(rng.integers(*_TRAINING))


def of_dataset(drawn: int, split: int) -> int:
  """Returns the seed of a track of a dataset.

  Args:
    drawn: a random number of 51 bits or more.
    split: number of the split, 0 or 1.
  """
  return _DATASETS + 2 * (drawn % (_DATASETS // 2)) + split
