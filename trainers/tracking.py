"""How a run is watched, beyond its own folder."""

from pathlib import Path
from typing import NamedTuple

import jax
import ml_collections
from trainers import run_documents


class Options(NamedTuple):
  """How a run is watched; without influence on its result.

  Attributes:
    profile_steps: number of steps to profile for TensorBoard.
    wandb_project: project at Weights & Biases that gets the logs, if any.
  """

  profile_steps: int = 0
  wandb_project: str | None = None


DEFAULT = Options()


def start(
  options: Options, workdir: Path, config: ml_collections.ConfigDict
) -> None:
  """Opens a run at Weights & Biases, on the first host, if it is wanted.

  Args:
    options: of the run.
    workdir: whose TensorBoard logs are sent.
    config: of the run.

  Raises:
    run_documents.RunError: the library is not installed.
  """
  if options.wandb_project is None or jax.process_index() > 0:
    return
  try:
    import wandb  # pyright: ignore[reportMissingImports]  An optional dependency.
  except ImportError:
    raise run_documents.RunError(
      'Weights & Biases is not installed; install it with: pip install -c'
      " constraints.txt -e '.[wandb]'"
    ) from None
  wandb.init(
    project=options.wandb_project,
    dir=workdir,
    name=workdir.name,
    config=config.to_dict(),
    sync_tensorboard=True,
  )
