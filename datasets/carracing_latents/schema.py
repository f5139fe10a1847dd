"""The records of `carracing_latents`: one episode each."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from carracing_data import steps


def broken_promises(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
  """Checks the records of a split, in order.

  Args:
    records: decoded.

  Yields:
    What is wrong; the record that shows it is the one read last.
  """
  for index, record in enumerate(records):
    if record['episode_id'] != index:
      yield f'it is episode {record["episode_id"]}, not {index}'
    lengths = {len(v) for k, v in record.items() if k != 'episode_id'}
    if len(lengths) != 1:
      yield f'its features have different lengths: {sorted(lengths)}'
    else:
      yield from steps.broken_promises(
        {k: v for k, v in record.items() if k != 'episode_id'}
      )
