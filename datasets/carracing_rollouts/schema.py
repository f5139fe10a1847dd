"""Episodes, and their records: segments of at most 32 steps.

With one record per frame, random reads would be cheap and passes over the data
slow; with one per episode, the reverse. A segment is read as a whole, and
shuffling a few dozen of them together mixes their frames well.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
from typing import Annotated, Any

from carracing_data import json_documents
from carracing_data import metadata
from carracing_data import rlds_steps
import numpy as np
import pydantic

SPLITS = ('train', 'validation')
RECORDED = 'recorded'  # The policy if all episodes are those of a log.
ACTION_LOG = 'actions.npz'  # The log in a dataset's folder.
MAX_STEPS_LIMIT = 1_000_000


class Config(json_documents.Document):
  """Config of a rollouts dataset, with the valid range of each key.

  Datasets of policies and simulators that this version cannot run are readable.

  Attributes:
    num_episodes: number of episodes that the policy drives; the last tenth of
      them (at least one) belongs to the validation split.
    max_steps: transitions after which an episode is truncated.
    policy: behaviour policy, see `policies.make`; or `recorded`: there are only
      the episodes of the log.
    seed: seed of all tracks, policy weights and action noise.
    interventions: probability that an intervention begins at a step that has
      none, see `interventions`; not of the log, whose drivers have their own.
    simulator: a key of `environment.SIMULATORS`.
    actions_sha256: digest of the action log whose episodes follow those of the
      policy in each split; None: there is none.
  """

  num_episodes: Annotated[int, pydantic.Field(ge=0, le=10_000_000)]
  max_steps: Annotated[int, pydantic.Field(ge=1, le=MAX_STEPS_LIMIT)]
  policy: Annotated[str, pydantic.Field(max_length=100)]
  seed: Annotated[int, pydantic.Field(ge=0, lt=2**63)]
  interventions: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.0
  simulator: json_documents.Name
  actions_sha256: json_documents.Sha256 | None = None


def split_sizes(num_episodes: int) -> dict[str, int]:
  """Divides episodes among the splits: a tenth, at least one, for validation.

  Args:
    num_episodes: at least 2, or 0.
  """
  validation = min(num_episodes, max(1, num_episodes // 10))
  return dict(zip(SPLITS, (num_episodes - validation, validation)))


SEGMENT_STEPS = 32
STEP_BYTES = 1500  # Of a step on disk; measured: 1,200 to 1,400.


def count_segments(episode_steps: int) -> int:
  """Returns the number of segments of an episode."""
  return -(-episode_steps // SEGMENT_STEPS)


@dataclasses.dataclass(frozen=True)
class Episode:
  """One episode of N transitions as N+1 steps, with RLDS semantics.

  At the last step the observation is valid; the other features of the action
  are zero. If that step is not terminal, the episode was truncated.

  Attributes:
    observation: uint8 [N+1, 64, 64, 3], 0..255.
    action: float32 [N+1, 3]: steering −1..1, gas 0..1, brake 0..1.
    is_intervention: bool [N+1]: whether the action was imposed on the driver,
      see `interventions`; False in datasets of version 1.
    reward: float32 [N+1].
    discount: float32 [N+1]: 0 where the next state is terminal, else 1.
    is_first: bool [N+1].
    is_last: bool [N+1].
    is_terminal: bool [N+1].
  """

  observation: np.ndarray
  action: np.ndarray
  is_intervention: np.ndarray
  reward: np.ndarray
  discount: np.ndarray
  is_first: np.ndarray
  is_last: np.ndarray
  is_terminal: np.ndarray

  def __len__(self) -> int:
    return len(self.observation)


_STEP_FIELDS = [field.name for field in dataclasses.fields(Episode)]


def cut(episode_id: int, episode: Episode) -> Iterator[dict[str, Any]]:
  """Cuts an episode into records.

  Args:
    episode_id: number of the episode within its split.
    episode: N+1 steps.

  Yields:
    Records with `episode_id`, `first_step`, `length` and the fields of the
    episode, each [32, ...], zero-padded after `length` steps.
  """
  fields = vars(episode)
  for first_step in range(0, len(episode), SEGMENT_STEPS):
    last_step = first_step + SEGMENT_STEPS
    segment = {
      key: value[first_step:last_step] for key, value in fields.items()
    }
    length = len(segment['is_first'])
    padding = SEGMENT_STEPS - length
    yield {
      'episode_id': episode_id,
      'first_step': first_step,
      'length': length,
      **{
        key: np.pad(value, [(0, padding)] + [(0, 0)] * (value.ndim - 1))
        for key, value in segment.items()
      },
    }


def join(records: Sequence[Mapping[str, Any]]) -> Episode:
  """Joins the records of one episode, in order, without their padding."""
  fields = {
    name: np.concatenate([r[name][: r['length']] for r in records])
    for name in _STEP_FIELDS
    if name in records[0]
  }
  # Records of version 1 lack it.
  fields.setdefault('is_intervention', np.zeros_like(fields['is_first']))
  return Episode(**fields)


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
  pending: list[Mapping[str, Any]] = []
  episode_id = 0
  for record in records:
    length = int(record['length'])
    if not 1 <= length <= SEGMENT_STEPS:
      yield f'its length is {length}'
    if record['episode_id'] != episode_id:
      yield (
        f'it belongs to episode {record["episode_id"]}, not to {episode_id}'
      )
    expected = len(pending) * SEGMENT_STEPS
    if record['first_step'] != expected:
      yield f'it starts at step {record["first_step"]}, not at {expected}'
    for name in _STEP_FIELDS:
      if name in record and record[name][length:].any():
        yield f'the padding of {name} is not zero'
    pending.append(record)
    if record['is_last'][:length].any():
      fields = vars(join(pending))
      yield from rlds_steps.broken_promises(fields)
      totals.add(rlds_steps.summarize(fields))
      pending, episode_id = [], episode_id + 1
    elif length < SEGMENT_STEPS:
      yield 'it is short though the episode goes on'
  if pending:
    yield 'the last episode has no last step'


def _attachments(config: Mapping[str, Any]) -> dict[str, str]:
  sha256 = config.get('actions_sha256')
  return {} if sha256 is None else {ACTION_LOG: sha256}


KIND = metadata.Kind(
  'carracing_rollouts',
  Config,
  count_segments,
  {
    'episode_id': metadata.Feature('int64'),
    'first_step': metadata.Feature('int32'),
    'length': metadata.Feature('int32'),
    'observation': metadata.Feature(
      'uint8', (SEGMENT_STEPS, *rlds_steps.OBSERVATION_SHAPE)
    ),
    'action': metadata.Feature(
      'float32', (SEGMENT_STEPS, rlds_steps.ACTION_SIZE)
    ),
    'is_intervention': metadata.Feature('bool', (SEGMENT_STEPS,), '2.0.0'),
    'reward': metadata.Feature('float32', (SEGMENT_STEPS,)),
    'discount': metadata.Feature('float32', (SEGMENT_STEPS,)),
    'is_first': metadata.Feature('bool', (SEGMENT_STEPS,)),
    'is_last': metadata.Feature('bool', (SEGMENT_STEPS,)),
    'is_terminal': metadata.Feature('bool', (SEGMENT_STEPS,)),
  },
  broken_promises,
  '4.0.0',
  _attachments,
)
