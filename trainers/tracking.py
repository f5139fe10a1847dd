"""Options to profile a run and to log it to Weights & Biases."""

from pathlib import Path
from typing import NamedTuple

import jax
import ml_collections
from trainers import run_documents


class Options(NamedTuple):
  """Profiling and logging options, which do not affect the result of a run.

  Attributes:
    profile_steps: number of steps to profile for TensorBoard.
    wandb_project: Weights & Biases project that receives the logs, if any.
  """

  profile_steps: int = 0
  wandb_project: str | None = None


DEFAULT = Options()


def start(
  options: Options, workdir: Path, config: ml_collections.ConfigDict
) -> None:
  """Starts a Weights & Biases run on the first host, if requested.

  Args:
    options: profiling and logging options.
    workdir: folder of the run, whose TensorBoard logs are sent.
    config: config of the run.

  Raises:
    run_documents.RunError: wandb is not installed.
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
