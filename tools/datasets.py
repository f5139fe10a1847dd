"""Lists the datasets of a data directory: size, digest, and who drove.

  python -m tools.datasets
  python -m tools.datasets --data_dir=/shared/tensorflow_datasets

Reads metadata and action logs, not the records. The citation,
`dataset/config:version@DIGEST`, is what loaders and tools accept in place of a
name.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import logging
from carracing_data import command_line
from carracing_data import errors
from etils import epy

with epy.lazy_imports():
  from carracing_data import metadata
  from carracing_data import prepared_dataset
  from carracing_latents import schema as latents_schema
  from carracing_rollouts import schema as rollouts_schema
  from carracing_rollouts import who_drove
  from tools.showing import markdown

_DATA_DIR = command_line.data_dir_flag()
_HEAD = 'dataset', 'episodes', 'steps', 'MB', 'return', 'driven or encoded by'


def rows(root: Path) -> Iterator[list[str]]:
  """Yields a row of `_HEAD` for each dataset in a data directory.

  A dataset that cannot be used has the reason in place of who drove.
  """
  kinds = latents_schema.KIND, rollouts_schema.KIND
  for folder in (y for x in kinds for y in _folders(root / x.name, 2)):
    try:
      yield _row(prepared_dataset.find(folder, None, *kinds))
    except (errors.UserError, OSError) as error:
      name = folder.relative_to(root).as_posix()
      reason = command_line.line_of(error) or str(error)
      yield [name, *[''] * (len(_HEAD) - 2), reason.removeprefix('Error: ')]


def _folders(folder: Path, levels: int) -> Iterator[Path]:
  """Yields the folders of datasets, and what may not be looked into."""
  try:
    if not levels:
      (folder / metadata.FILE).lstat()
      yield folder
      return
    inside = sorted(folder.iterdir())
  except (FileNotFoundError, NotADirectoryError):
    return
  except OSError:
    yield folder
    return
  for path in inside:
    yield from _folders(path, levels - 1)


def _row(prepared: prepared_dataset.Dataset) -> list[str]:
  splits = prepared.splits.values()
  episodes = sum(x.num_episodes for x in splits)
  mean = sum(x.num_episodes * x.return_mean for x in splits) / episodes
  size = sum(x.lstat().st_size for x in prepared.folder.iterdir())
  if prepared.name == 'carracing_rollouts':
    who = '; '.join(who_drove.by_driver(who_drove.of_dataset(prepared)))
  else:
    config = prepared.config
    who = f'V {config["vae_sha256"][:8]}, of {config["rollouts"]}'
  return [
    prepared.citation,
    f'{episodes:,}',
    f'{sum(x.num_steps for x in splits) - episodes:,}',  # Transitions.
    f'{size / 1e6:,.0f}',
    f'{mean:.1f}',
    who,
  ]


def main(argv: Sequence[str]) -> None:
  del argv
  root = prepared_dataset.data_directory(_DATA_DIR.value)
  logging.info('Listing the datasets in %s.', root)
  if not root.is_dir():
    raise errors.UserError(f'there is no data directory {root}')
  found = [*rows(root)]
  if not found:
    raise errors.UserError(
      f'{root} holds no datasets; build one with: tfds build'
      f' datasets/carracing_rollouts --data_dir={root}'
    )
  print(markdown.table(_HEAD, found))


if __name__ == '__main__':
  command_line.run(main)
