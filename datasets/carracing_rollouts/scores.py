"""Statistics of returns: (returns, completed laps) → summary, and its text.

Also how an episode ended.
"""

from carracing_data import json_documents
from carracing_rollouts import environment
import numpy as np

_LOW = 700  # Returns below this one are counted: the car lost its way.


class Summary(json_documents.Document):
  """Statistics of the returns.

  Attributes:
    episodes: number of tracks.
    mean: mean return.
    standard_deviation: sample standard deviation (divisor n − 1); None for a
      single track.
    standard_error: of the mean; None for a single track.
    median: median return.
    least: least return.
    laps_completed: share of the tracks whose lap was completed, 0..1.
    below_700: share of the returns below 700, 0..1.
  """

  episodes: int
  mean: float
  standard_deviation: float | None
  standard_error: float | None
  median: float
  least: float
  laps_completed: float
  below_700: float


def summarize(returns: np.ndarray, completed: np.ndarray) -> Summary:
  """Computes the statistics of N episodes, with N at least 1.

  Returns are float [N]; whether the lap was completed is bool [N].
  """
  returns = np.asarray(returns, np.float64)
  deviation = error = None
  if len(returns) > 1:
    deviation = float(returns.std(ddof=1))
    error = float(deviation / np.sqrt(len(returns)))
  return Summary(
    episodes=len(returns),
    mean=float(returns.mean()),
    standard_deviation=deviation,
    standard_error=error,
    median=float(np.median(returns)),
    least=float(returns.min()),
    laps_completed=float(np.mean(completed)),
    below_700=float((returns < _LOW).mean()),
  )


def describe(summary: Summary) -> str:
  """Returns a line such as `922.1 ± 30.2 over 256 tracks (standard ...`."""
  if summary.standard_deviation is None:
    mean = f'{summary.mean:.1f} over 1 track'
  else:
    mean = (
      f'{summary.mean:.1f} ± {summary.standard_deviation:.1f} over'
      f' {summary.episodes} tracks (standard error'
      f' {summary.standard_error:.1f})'
    )
  return (
    f'{mean} · median {summary.median:.0f} · least {summary.least:.0f}'
    f' · laps {100 * summary.laps_completed:.1f} %'
    f' · below {_LOW} {100 * summary.below_700:.1f} %'
  )


def ending(terminated: bool, reward: float) -> str:
  """Returns how an episode with this last step ended, for people."""
  if not terminated:
    return 'lap not completed in time'
  if environment.lap_completed(terminated, reward):
    return 'lap completed'
  return 'lap not completed: the car left the playing field'
