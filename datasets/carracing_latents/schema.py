"""The records of `carracing_latents`: one episode each."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from carracing_data import json_documents
from carracing_data import metadata
from carracing_data import rlds_steps


class Config(json_documents.Document):
  """Config of a latents dataset: its rollouts and its VAE.

  Attributes:
    rollouts: full name of the encoded dataset.
    rollouts_content_sha256: digest of the content of each of its splits.
    vae_sha256: digest of the weights file of the VAE.
  """

  rollouts: str
  rollouts_content_sha256: dict[json_documents.Name, json_documents.Sha256]
  vae_sha256: json_documents.Sha256


def broken_promises(
  records: Iterable[Mapping[str, Any]], totals: rlds_steps.Totals
) -> Iterator[str]:
  """Checks the records of a split, in order.

  Args:
    records: decoded records.
    totals: to which each episode is added.

  Yields:
    A description of each problem of the record read last.
  """
  for index, record in enumerate(records):
    if record['episode_id'] != index:
      yield f'it is episode {record["episode_id"]}, not {index}'
    fields = {k: v for k, v in record.items() if k != 'episode_id'}
    lengths = {len(x) for x in fields.values()}
    if len(lengths) != 1:
      yield f'its features have different lengths: {sorted(lengths)}'
    else:
      yield from rlds_steps.broken_promises(fields)
      totals.add(rlds_steps.summarize(fields))


# Features that are copied from the rollouts.
COPIED = (
  'action',
  'is_intervention',
  'reward',
  'discount',
  'is_first',
  'is_last',
  'is_terminal',
)
KIND = metadata.Kind(
  'carracing_latents',
  Config,
  lambda episode_steps: 1,
  {
    'episode_id': metadata.Feature('int64'),
    'mean': metadata.Feature('float32', (None, 'latent_size')),
    'logvar': metadata.Feature('float32', (None, 'latent_size')),
    'action': metadata.Feature('float32', (None, rlds_steps.ACTION_SIZE)),
    'is_intervention': metadata.Feature('bool', (None,), '2.0.0'),
    'reward': metadata.Feature('float32', (None,)),
    'discount': metadata.Feature('float32', (None,)),
    'is_first': metadata.Feature('bool', (None,)),
    'is_last': metadata.Feature('bool', (None,)),
    'is_terminal': metadata.Feature('bool', (None,)),
  },
  broken_promises,
  '2.0.0',
)
