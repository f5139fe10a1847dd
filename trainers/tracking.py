"""Options to profile a run and to log it to Weights & Biases."""

import importlib.util
from pathlib import Path
from typing import NamedTuple

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


def check(options: Options) -> None:
  """Checks that Weights & Biases is installed if it is wanted.

  Raises:
    run_documents.RunError: it is not.
  """
  if options.wandb_project and importlib.util.find_spec('wandb') is None:
    raise run_documents.RunError(
      'Weights & Biases is not installed; install it with: pip install -c'
      " constraints.txt -e '.[wandb]'"
    )


def start(
  options: Options, workdir: Path, config: ml_collections.ConfigDict
) -> int:
  """Opens a run at Weights & Biases if it is wanted, for `first_decides`.

  Args:
    options: options of the run.
    workdir: folder whose TensorBoard logs are sent.
    config: config of the run.
  """
  if options.wandb_project:
    import wandb  # pyright: ignore[reportMissingImports]  An optional dependency.

    wandb.init(
      project=options.wandb_project,
      dir=workdir,
      name=workdir.name,
      config=config.to_dict(),
      sync_tensorboard=True,
    )
  return 0
