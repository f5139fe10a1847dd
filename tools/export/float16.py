"""Float32 → float16: an agent whose V and M are half the size."""

from pathlib import Path
from typing import Any

import jax
from models import agent
from models import start_states
from models import weights
import numpy as np

_NUM_START_STATES = 512


def rounded(x: np.ndarray, source: Path) -> np.ndarray:
  """Rounds numbers to float16.

  Args:
    x: float32.
    source: folder of the weights, for the error message.

  Raises:
    weights.WeightsError: a number is beyond float16.
  """
  limit = np.finfo(np.float16).max
  if np.abs(x).max(initial=0) > limit:
    raise weights.WeightsError(
      f'{source} has numbers beyond float16, ±{limit:g}, so it cannot be'
      ' rounded'
    )
  return x.astype(np.float16)


def save(folder: Path, output_dir: Path) -> None:
  """Saves an agent with V and M in float16 and 512 of the start states.

  C, 3.6 kB, stays as it is. V and M name the weights that they were rounded
  from; an agent that was rounded once is not changed any more.

  Args:
    folder: folder of the agent.
    output_dir: folder for its parts.

  Raises:
    weights.WeightsError: the agent is missing or damaged, or its numbers are
      beyond float16.
  """
  digests: dict[str, str] = {}
  for part in agent.PARTS:
    loaded = weights.load(folder / part, part)
    params: Any = loaded.variables['params']
    training, starts = {**loaded.training}, None
    if part != 'controller':
      params = jax.tree.map(
        lambda x, part=part: rounded(x, folder / part), params
      )
      training.setdefault('rounded_from', loaded.sha256)
    if loaded.start_states is not None:
      states = start_states.load(folder / part)
      starts = start_states.to_bytes(
        start_states.thinned(states, _NUM_START_STATES)
      )
    # The parts name one another by their digests.
    of_parts = {f'{name}_sha256': sha256 for name, sha256 in digests.items()}
    training |= {k: v for k, v in of_parts.items() if k in training}
    digests[part] = weights.save(
      output_dir / part,
      part,
      loaded.config,
      params,
      training,
      starts,
      loaded.architecture,
    )
