"""How well a model predicts a dataset: (model, dataset) → errors by driver."""

from absl import logging
from carracing_data import errors
from carracing_data import prepared_dataset
from carracing_rollouts import loader
from carracing_rollouts import schema
from carracing_rollouts import who_drove
import jax
from models import world_model
from tools.measuring import accuracy

_SPLIT = 'validation'
ALL = 'all of them'


def measure(
  model: world_model.WorldModel,
  dataset: str,
  data_dir: str | None,
  key: jax.Array,
  most: int | None = None,
) -> dict[str, accuracy.Accuracy]:
  """Measures predictions for each driver of a dataset.

  Args:
    model: the world model.
    dataset: name or folder of the rollouts; see `prepared_dataset.find`.
    data_dir: data directory; see `prepared_dataset.find`.
    key: random key of the dreams.
    most: largest number of episodes of a driver; None: all of them.

  Returns:
    The accuracy of the model by driver, and if there are several, on all their
    episodes, `ALL`. Drivers of short episodes are left out, with a warning.

  Raises:
    errors.DatasetError: there is no such dataset, its log is damaged, or all
      episodes are too short.
  """
  prepared = prepared_dataset.find(dataset, data_dir, schema.KIND)
  episodes = loader.episodes(str(prepared.folder), split=_SPLIT)
  of_driver = who_drove.by_driver(prepared, _SPLIT)
  compared = {
    title: accuracy.compare(model, (episodes[i] for _, i in ids[:most]), key)
    for title, ids in of_driver.items()
  }
  for title in [title for title, batches in compared.items() if not batches]:
    logging.warning('All episodes driven by %s are too short.', title)
    del compared[title]
  if len(compared) > 1:
    compared[ALL] = [x for of_one in compared.values() for x in of_one]
  if not compared:
    needed = accuracy.SEEN_STEPS + max(accuracy.HORIZONS)
    raise errors.DatasetError(
      f'no validation episode of {prepared.full_name} has'
      f' {needed} transitions or more'
    )
  return {title: accuracy.summarise(x) for title, x in compared.items()}
