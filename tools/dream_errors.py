r"""Measures how well a world model predicts, and how its dreams diverge.

  python -m tools.dream_errors --vae=runs/vae/weights \
    --mdn_rnn=runs/mdn_rnn/weights --dataset=carracing_rollouts/driven

M watches 80 steps of validation episodes and then dreams, given the recorded
actions; the dreams are compared with the recordings. Prints Markdown tables:
V's and M's errors for each driver of the dataset, and the errors of dreams over
growing horizons. --output also writes the numbers as JSON.
"""

from collections.abc import Sequence

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import documents
from carracing_data import errors
from carracing_data import places
from carracing_data import prepared
from carracing_rollouts import loader
from carracing_rollouts import origins
from carracing_rollouts import schema
import jax
from models import world_model
from tools import accuracy
from tools import markdown
from trainers import runtime

_VAE, _MDN_RNN = command_line.weights_flags()
_DATASET = command_line.dataset_flag()
_DATA_DIR = command_line.data_dir_flag()
_SEED = flags.DEFINE_integer(
  'seed', 0, 'Random seed of the dreams.', lower_bound=0, upper_bound=2**32 - 1
)
_OUTPUT = flags.DEFINE_string(
  'output', None, 'JSON file for the numbers; by default none.'
)
_SPLIT = 'validation'
ALL = 'all of them'


def measure(
  model: world_model.WorldModel,
  dataset: str,
  data_dir: str | None,
  key: jax.Array,
) -> dict[str, accuracy.Accuracy]:
  """Measures predictions for each driver of a dataset.

  Args:
    model: the world model.
    dataset: name or folder of the rollouts; see `prepared.find`.
    data_dir: data directory; see `prepared.find`.
    key: random key of the dreams.

  Returns:
    The accuracy of the model by driver, and if there are several, on all their
    episodes, `ALL`. Drivers of short episodes are left out, with a warning.

  Raises:
    errors.DatasetError: there is no such dataset, its log is damaged, or all
      episodes are too short.
  """
  builder = prepared.find(dataset, data_dir, schema.KIND)
  episodes = loader.episodes(str(builder.data_dir), split=_SPLIT)
  of_driver = origins.by_driver(builder, _SPLIT)
  compared = {
    title: accuracy.compare(model, (episodes[i] for _, i in ids), key)
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
      f'no validation episode of {prepared.full_name(builder)} has'
      f' {needed} transitions or more'
    )
  return {title: accuracy.summarise(x) for title, x in compared.items()}


def main(argv: Sequence[str]) -> None:
  del argv
  runtime.prepare()
  output = None
  if _OUTPUT.value is not None:
    output = places.claim_file(places.expand(_OUTPUT.value))
  model = world_model.load(_VAE.value, _MDN_RNN.value)
  measured = measure(
    model, _DATASET.value, _DATA_DIR.value, jax.random.key(_SEED.value)
  )
  print(markdown.table(*accuracy.driver_table(measured)))
  for title, found in measured.items():
    print(f'\nDriven by {title}:\n')
    print(markdown.table(*accuracy.horizon_table(found)))
  if output is not None:
    documents.write(
      output, {title: x.model_dump() for title, x in measured.items()}
    )
    logging.info('Saved %s', output)


if __name__ == '__main__':
  command_line.run(main)
