"""Where `tools.lineage` and `tools.report` look for sources: two flags."""

from pathlib import Path

from absl import flags
from carracing_data import errors
from carracing_data import files

# Where runs, pipelines and scores are made by default.
_FOLDERS = [
  *('runs', 'demo', 'two_rounds', 'dream_rounds'),
  *('evaluation', 'fidelity'),
]

flags.disclaim_key_flags()  # They belong to the binaries.


class Flags:
  """`--data_dir` and `--search`."""

  def __init__(self):
    self._data_dir = flags.DEFINE_string(
      'data_dir',
      None,
      'Data directory of the datasets; defaults to the folder data beside the'
      ' runs, else to $TFDS_DATA_DIR or ~/tensorflow_datasets.',
    )
    self._search = flags.DEFINE_list(
      'search',
      _FOLDERS,
      'Folders below which runs, exported weights, scores and comparisons may'
      ' lie, besides that of the argument.',
    )

  def values(self) -> tuple[str | None, list[Path]]:
    """Returns the data directory, None by default, and the other folders.

    Raises:
      errors.UserError: a folder that was named does not exist.
    """
    search, data_dir = self._search.value or [], self._data_dir.value
    named = [('search', x) for x in search if self._search.present]
    named += [] if data_dir is None else [('data_dir', data_dir)]
    for flag, folder in named:
      if not files.expand(folder).is_dir():
        raise errors.UserError(f'--{flag}={folder} is no folder')
    return data_dir, [files.expand(folder) for folder in search]
