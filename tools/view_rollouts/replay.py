"""A recorded episode → the frames of its simulator."""

from absl import logging
from carracing_data import prepared_dataset
from carracing_rollouts import environment
from carracing_rollouts import policies
from carracing_rollouts import rollout
from carracing_rollouts import schema
import numpy as np


def replay(
  dataset: prepared_dataset.Dataset,
  track_seed: int,
  episode: schema.Episode,
) -> np.ndarray | None:
  """Replays the recorded actions in the simulator.

  Args:
    dataset: dataset of the episode.
    track_seed: seed of the episode's track.
    episode: recorded episode.

  Returns:
    The simulator's frames, uint8 [N+1, 96, 96, 3]; None, after a warning, if
    they differ from the recording.
  """
  simulator = dataset.config['simulator']
  if simulator not in environment.SIMULATORS:
    logging.warning(
      'This version has no simulator %s, so its frames are left out.', simulator
    )
    return None
  environments_class = environment.SIMULATORS[simulator]
  actions = episode.action[:-1]
  played = list(
    rollout.play(
      environments_class([track_seed], len(actions)),
      policies.RecordedPolicy([actions]),
      [np.random.SeedSequence(0)],  # Not used.
    )
  )
  observations = [step.observation for step in played]
  observations.append(played[-1].next_observation)
  same = [
    *map(np.array_equal, np.concatenate(observations), episode.observation),
    len(played) == len(actions),  # Another version may end the episode earlier.
  ]
  if not all(same):
    logging.warning(
      'The replay differs from the recording from step %d on, so its frames are'
      ' left out. Recorded as %s with %s; here: %s with %s.',
      same.index(False),
      dataset.version,
      dataset.metadata.packages,
      schema.KIND.version,
      rollout.versions(simulator),
    )
    return None
  return np.concatenate(
    [step.frame for step in played] + [played[-1].next_frame]
  )
