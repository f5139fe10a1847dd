"""Rounds V and M of an agent to float16, so that it is half the size.

  python -m tools.publish --agent=runs/controller/agent --output_dir=published

C, 3.6 kB, keeps its float32 numbers, and 512 of the start states are kept. The
folder holds a whole agent, which names the weights that it was rounded from. An
interrupted command is run again.
"""

from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import errors
from carracing_data import files
from etils import epy

with epy.lazy_imports():
  import jax
  from models import agent
  from models import start_states
  from models import weights
  import numpy as np

_NUM_START_STATES = 512

_AGENT = flags.DEFINE_string(
  'agent',
  None,
  'Folder of an agent, with vae/, mdn_rnn/ and controller/; required.',
  required=True,
)
_OUTPUT_DIR = command_line.output_dir_flag('published')


def publish(folder: Path, output_dir: Path) -> None:
  """Writes an agent with V and M rounded to float16, and 512 start states.

  Args:
    folder: folder of the agent.
    output_dir: output directory; weights in its `vae`, `mdn_rnn` and
      `controller` are replaced.

  Raises:
    weights.WeightsError: the agent is missing or damaged, or its numbers are
      beyond float16.
    errors.UserError: the output directory holds the agent or lies in it, or a
      folder that would be replaced holds something else than weights.
    errors.UserError: the output cannot be written.
  """
  agent.load(folder)  # Fails on parts that do not belong together.
  source, target = folder.resolve(), output_dir.resolve()
  if source.is_relative_to(target) or target.is_relative_to(source):
    raise errors.UserError(
      f'{output_dir} and the agent lie one in the other; choose another'
      ' --output_dir'
    )
  files.claim_folder(output_dir)
  parts = {(folder / part).resolve() for part in agent.PARTS}
  for part in agent.PARTS:
    _check_replaceable(output_dir / part, parts)
  # All parts are checked before the first one is written.
  rounded = {part: _rounded(folder / part, part) for part in agent.PARTS}
  digests: dict[str, str] = {}
  for part, (params, training, starts) in rounded.items():
    # The agent's parts name one another by their digests.
    of_parts = {f'{name}_sha256': sha256 for name, sha256 in digests.items()}
    training |= {k: v for k, v in of_parts.items() if k in training}
    digests[part] = weights.save(
      output_dir / part,
      part,
      weights.describe(folder / part).config,
      params,
      training,
      starts,
    )


def _rounded(
  folder: Path, part: str
) -> tuple[Any, dict[str, Any], bytes | None]:
  """Returns the parameters, training and start states that are published.

  Raises:
    weights.WeightsError: the part has numbers beyond float16, or start states
      of another M.
  """
  loaded = weights.load(folder, part)
  params, training = loaded.variables['params'], {**loaded.training}
  if part == 'controller':
    return params, training, None
  limit = np.finfo(np.float16).max
  if any(np.abs(x).max() > limit for x in jax.tree.leaves(params)):
    raise weights.WeightsError(
      f'{folder} has numbers beyond float16, ±{limit:g}, so it cannot be'
      ' rounded'
    )
  params = jax.tree.map(lambda x: x.astype(np.float16), params)
  training.setdefault('rounded_from', loaded.sha256)
  starts = None
  if loaded.start_states is not None:
    states = start_states.load(folder)
    starts = start_states.to_bytes(
      start_states.thinned(states, _NUM_START_STATES)
    )
  return params, training, starts


def _check_replaceable(folder: Path, parts: Set[Path]) -> None:
  """Raises UserError if a folder is a part, or holds more than weights."""
  if folder.resolve() in parts:
    raise errors.UserError(
      f'{folder} is a part of the agent; choose another --output_dir'
    )
  with files.write_errors(folder):
    names = {path.name for path in folder.iterdir()} if folder.exists() else []
  if others := sorted({*names} - {*weights.FILES}):
    raise errors.UserError(
      f'{folder} holds {others[0]}, so it would not be replaced by weights'
      ' alone; choose another --output_dir'
    )


def main(argv: Sequence[str]) -> None:
  del argv
  logging.info('Rounding %s into %s.', _AGENT.value, _OUTPUT_DIR.value)
  output_dir = files.expand(_OUTPUT_DIR.value)
  publish(files.expand(_AGENT.value), output_dir)
  for part, sha256 in agent.digests(output_dir).items():
    size = (output_dir / part / weights.FILE).stat().st_size
    print(f'{part}: {size / 1e6:.2f} MB, SHA-256 {sha256}')


if __name__ == '__main__':
  command_line.run(main)
