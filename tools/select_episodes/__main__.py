r"""Selects episodes of datasets, by driver, return or length, as an action log.

  python -m tools.select_episodes --dataset=carracing_rollouts/driven \
      --drivers='agent*' --min_return=800 --output=good.npz
  python -m tools.select_episodes --output=both.npz \
      --dataset=carracing_rollouts/mine+carracing_rollouts/theirs

A dataset of them is built as from any other log: their actions are driven
again, so that it has the digest of a dataset that was recorded so.

  tfds build datasets/carracing_rollouts --config '{"name": "good",
    "policy": "recorded", "actions": "good.npz"}'

Episodes stay in their split, so that no track of a training split comes into a
validation split. An episode that several datasets have is taken once.
"""

from collections.abc import Sequence

from absl import flags
from absl import logging
from carracing_data import command_line
from carracing_data import errors
from carracing_data import files
from etils import epy

with epy.lazy_imports():
  from carracing_data import prepared_dataset
  from carracing_rollouts import action_log
  from carracing_rollouts import schema
  from tools.driving import recorded_actions
  from tools.select_episodes import selection

_DATASET = flags.DEFINE_string(
  'dataset', 'carracing_rollouts', 'Rollouts to select from; or several, A+B.'
)
_DATA_DIR = command_line.data_dir_flag()
_DRIVERS = flags.DEFINE_string(
  'drivers',
  '*',
  'Pattern of who drove, as tools.datasets names them; by default everybody.',
)
_MIN_RETURN = flags.DEFINE_float(
  'min_return', None, 'Lowest return; by default any.'
)
_MAX_RETURN = flags.DEFINE_float(
  'max_return', None, 'Highest return; by default any.'
)
_MIN_STEPS = flags.DEFINE_integer(
  'min_steps', 1, 'Lowest number of steps.', lower_bound=1
)
_MAX_STEPS = flags.DEFINE_integer(
  'max_steps', None, 'Highest number of steps; by default any.', lower_bound=1
)
_PART = flags.DEFINE_string(
  'part',
  ':',
  'Which of the episodes of each split that are left, START:STOP:STEP as in'
  ' Python: :50 are the first 50, ::2 and 1::2 two halves; by default all.',
)
_OUTPUT = flags.DEFINE_string(
  'output', None, 'File of the log; required.', required=True
)


def main(argv: Sequence[str]) -> None:
  del argv
  logging.info('Selecting episodes of %s.', _DATASET.value)
  criteria = selection.Criteria(
    _DRIVERS.value,
    _MIN_RETURN.value,
    _MAX_RETURN.value,
    _MIN_STEPS.value,
    _MAX_STEPS.value,
    _PART.value,
  )
  output = files.claim_file(files.expand(_OUTPUT.value))
  if output.exists():
    raise errors.UserError(f'{output} already exists; choose another --output')
  log = selection.select(
    prepared_dataset.find_all(_DATASET.value, _DATA_DIR.value, schema.KIND),
    criteria,
  )
  action_log.write(output, log)
  for line in recorded_actions.describe(log, output):
    print(line)


if __name__ == '__main__':
  command_line.run(main)
