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
from carracing_data import files
from etils import epy
from tools.showing import markdown

with epy.lazy_imports():
  from carracing_data import json_documents
  from carracing_data import runtime
  import jax
  from models import world_model
  from tools.dream_errors import accuracy
  from tools.dream_errors import tables

_VAE, _MDN_RNN = command_line.weights_flags()
_DATASET = command_line.dataset_flag()
_DATA_DIR = command_line.data_dir_flag()
_SEED = flags.DEFINE_integer(
  'seed', 0, 'Random seed of the dreams.', lower_bound=0, upper_bound=2**32 - 1
)
_OUTPUT = flags.DEFINE_string(
  'output', None, 'JSON file for the numbers; by default none.'
)


def main(argv: Sequence[str]) -> None:
  del argv
  logging.info(
    'Measuring %s and %s on %s.', _VAE.value, _MDN_RNN.value, _DATASET.value
  )
  runtime.prepare()
  output = None
  if _OUTPUT.value is not None:
    output = files.claim_file(files.expand(_OUTPUT.value), b'{')
  model = world_model.load(_VAE.value, _MDN_RNN.value)
  measured = accuracy.measure(
    model, _DATASET.value, _DATA_DIR.value, jax.random.key(_SEED.value)
  )
  print(markdown.table(*tables.by_driver(measured)))
  for title, found in measured.items():
    print(f'\nDriven by {title}:\n')
    print(markdown.table(*tables.by_horizon(found)))
  if output is not None:
    json_documents.write(
      output, {title: x.model_dump() for title, x in measured.items()}
    )
    logging.info('Saved %s', output)


if __name__ == '__main__':
  command_line.run(main)
