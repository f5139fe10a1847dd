"""Episodes ⇄ the records of the dataset, segments of at most 32 steps.

One record for each frame would make a random read cheap and a pass over the
data slow; one for each episode the other way round. A segment is read whole,
and a few dozen of them mix well.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any

from carracing_rollouts import rollout
import numpy as np

STEPS = 32


def count(episode_steps: int) -> int:
  """Returns how many segments an episode of so many steps fills."""
  return -(-episode_steps // STEPS)


def cut(episode_id: int, episode: rollout.Episode) -> Iterator[dict[str, Any]]:
  """Cuts an episode into records.

  Args:
    episode_id: number of the episode within its split.
    episode: N+1 steps.

  Yields:
    Records with `episode_id`, `first_step`, `length` and the fields of the
    episode, each [32, ...], zero after `length` steps.
  """
  fields = _fields(episode)
  for first_step in range(0, len(episode), STEPS):
    steps = {k: v[first_step : first_step + STEPS] for k, v in fields.items()}
    length = len(steps['is_first'])
    padding = STEPS - length
    yield {
        'episode_id': episode_id,
        'first_step': first_step,
        'length': length,
        **{
            key: np.pad(value, [(0, padding)] + [(0, 0)] * (value.ndim - 1))
            for key, value in steps.items()
        },
    }


def join(records: Sequence[Mapping[str, Any]]) -> rollout.Episode:
  """Joins the records of one episode, in order, without their padding."""
  names = [field.name for field in dataclasses.fields(rollout.Episode)]
  return rollout.Episode(**{
      name: np.concatenate([r[name][: r['length']] for r in records])
      for name in names
  })


def _fields(episode: rollout.Episode) -> dict[str, np.ndarray]:
  return {
      field.name: getattr(episode, field.name)
      for field in dataclasses.fields(episode)
  }
