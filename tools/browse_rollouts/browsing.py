"""A prepared rollouts dataset → HTML pages of its episodes, and their videos.

A folder belongs to the content of one dataset. Videos, which take most of the
time, are made in several processes, and later runs keep them. Pages are written
from the last one to the first, which sums up all episodes.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
from carracing_data import prepared_dataset
from carracing_data import processes
from carracing_data import progress
from carracing_data import shards
from carracing_rollouts import loader
from carracing_rollouts import schema
import markupsafe
import numpy as np
from tools.browse_rollouts import cards
from tools.showing import origins
from tools.showing import pictures
from tools.showing import webpages

INDEX = 'index.html'
VIDEOS = 'videos'
_SUBJECT = 'dataset.json'
_PAGE_EPISODES = 50
_VIDEOS_PER_JOB = 10
_NUM_EXTREMES = 5  # Episodes named for their high or low returns.


class BrowserError(errors.UserError):
  """A folder holds the pages of another dataset."""


class _Subject(json_documents.Document):
  """`dataset.json`: what the pages and videos of a folder are of."""

  dataset: str
  metadata_sha256: json_documents.Sha256


class Link(NamedTuple):
  """An episode as the first page names it.

  Attributes:
    title: split and index in the split.
    address: of its card.
    return_: sum of its rewards.
  """

  title: str
  address: str
  return_: float


@dataclasses.dataclass(frozen=True)
class _VideosJob:
  """Makes videos of episodes of a split.

  Attributes:
    dataset: folder of the dataset.
    split: name of the split.
    episode_ids: indices in the split.
    output_dir: output directory.
  """

  dataset: str
  split: str
  episode_ids: Sequence[int]
  output_dir: Path

  def __call__(self) -> None:
    episodes = loader.episodes(self.dataset, split=self.split)
    for i in self.episode_ids:
      pictures.save_observations(
        self.output_dir / _video(self.split, i), episodes[i].observation
      )


def make(dataset: str, data_dir: str | None, output_dir: Path) -> Path:
  """Writes the videos that are missing, and all pages.

  Args:
    dataset: name or folder of the dataset; see `prepared_dataset.find`.
    data_dir: data directory; see `prepared_dataset.find`.
    output_dir: output directory.

  Returns:
    The first page.

  Raises:
    errors.DatasetError: there is no such dataset, or it is damaged.
    errors.UserError: the output directory is not writable, or another process
      is writing to it.
    errors.DocumentError: `dataset.json` in the output directory is damaged.
    BrowserError: the output directory holds the pages of another dataset.
  """
  prepared = prepared_dataset.find(dataset, data_dir, schema.KIND)
  # Opened first: much of what may be wrong shows before an hour of work.
  episodes = {
    split: loader.episodes(str(prepared.folder), split=split)
    for split in schema.SPLITS
  }
  found = {split: origins.Origins(prepared, split) for split in schema.SPLITS}
  files.claim_folder(output_dir / VIDEOS)
  with files.locked(output_dir), files.write_errors(output_dir):
    _claim(output_dir, prepared)
    for folder in output_dir, output_dir / VIDEOS:
      shards.remove_temporary(folder)
    _make_videos(prepared, output_dir)
    _write_pages(prepared, episodes, found, output_dir)
  return output_dir / INDEX


def _claim(output_dir: Path, prepared: prepared_dataset.Dataset) -> None:
  """Raises BrowserError if a folder belongs to the pages of other data."""
  path = output_dir / _SUBJECT
  wanted = _Subject(
    dataset=prepared.full_name,
    metadata_sha256=prepared.metadata.metadata_sha256,
  )
  try:
    found = json_documents.read(path, _Subject)
  except FileNotFoundError:
    json_documents.write(path, wanted.model_dump())
    return
  except errors.DocumentError as error:
    raise errors.DocumentError(
      f'{error}; choose another --output_dir, or delete {output_dir}'
    ) from None
  if found != wanted:
    raise BrowserError(
      f'{output_dir} holds the pages of {found.dataset} with the digest'
      f' {found.metadata_sha256[:8]}, not of {wanted.dataset} with'
      f' {wanted.metadata_sha256[:8]}; choose another --output_dir'
    )


def _video(split: str, episode_id: int) -> str:
  """Returns the path of a video in the output directory."""
  return f'{VIDEOS}/{split}-{episode_id}.mp4'


def _is_file(path: Path) -> bool:
  return path.exists() and path.stat().st_size > 0


def _page(index: int) -> str:
  """Returns the path in the output directory of the page of an episode.

  Args:
    index: index of the episode among those of all splits.
  """
  number = index // _PAGE_EPISODES + 1
  return INDEX if number == 1 else f'page_{number}.html'


def _make_videos(prepared: prepared_dataset.Dataset, output_dir: Path) -> None:
  """Makes the missing videos; one that exists is complete."""
  folder = output_dir / VIDEOS
  jobs, total = [], 0
  for split in schema.SPLITS:
    num_episodes = prepared.splits[split].num_episodes
    missing = [
      i
      for i in range(num_episodes)
      if not _is_file(output_dir / _video(split, i))
    ]
    total += num_episodes
    jobs += [
      _VideosJob(
        str(prepared.folder),
        split,
        missing[start : start + _VIDEOS_PER_JOB],
        output_dir,
      )
      for start in range(0, len(missing), _VIDEOS_PER_JOB)
    ]

  def count() -> int:
    return len(list(folder.glob('*.mp4')))

  with progress.watching('videos', 'episodes', total, count):
    processes.run_locally(jobs, min(processes.num_cores(), len(jobs)))


def _write_pages(
  prepared: prepared_dataset.Dataset,
  episodes: Mapping[str, Sequence[schema.Episode]],
  found: Mapping[str, origins.Origins],
  output_dir: Path,
) -> None:
  """Writes the pages in reverse, so that all returns are known for the first.

  Args:
    prepared: a dataset, see `prepared_dataset.find`.
    episodes: episodes by split.
    found: origins of the episodes, by split.
    output_dir: output directory.
  """
  keys = [(split, i) for split in episodes for i in range(len(episodes[split]))]
  starts = range(0, len(keys), _PAGE_EPISODES)
  pages = [_page(start) for start in starts]
  drivers = {
    key: title
    for title, driven in origins.by_driver(prepared, *schema.SPLITS).items()
    for key in driven
  }
  facts: list[cards.Facts] = []  # Of all episodes, in reverse.
  with progress.Progress('pages', 'episodes', len(keys)) as counted:
    counted.start()
    for start in reversed(starts):
      shown = []
      for split, i in keys[start : start + _PAGE_EPISODES]:
        name = f'{split} {i}'
        shown.append(
          cards.make(
            name,
            episodes[split][i],
            found[split][i],
            drivers[split, i],
            _video(split, i),
          )
        )
        counted.count_one()
      facts += [card.facts for card in reversed(shown)]
      webpages.save(
        output_dir / _page(start),
        Path(__file__).with_name('episodes.html'),
        dataset=prepared.full_name,
        pages=pages,
        number=start // _PAGE_EPISODES + 1,
        cards=shown,
        summary=None if start else _summary(prepared, facts[::-1]),
      )


def _summary(
  prepared: prepared_dataset.Dataset, facts: Sequence[cards.Facts]
) -> dict[str, Any]:
  """Returns what the first page tells of the dataset, given all episodes."""
  links = [
    Link(x.title, f'{_page(i)}#{x.identifier}', x.return_)
    for i, x in enumerate(facts)
  ]
  ranked = sorted(links, key=lambda link: -link.return_)
  splits, first = [], 0
  for split in schema.SPLITS:
    recorded = prepared.splits[split]
    splits.append((split, links[first].address, recorded))
    first += recorded.num_episodes
  returns: dict[str, list[float]] = {}
  for x in facts:
    returns.setdefault(x.driver, []).append(x.return_)
  return {
    'citation': prepared.citation,
    'splits': splits,
    'drivers': [(name, np.array(x)) for name, x in returns.items()],
    'highest': ranked[:_NUM_EXTREMES],
    'lowest': ranked[: -_NUM_EXTREMES - 1 : -1],
    'histogram': _histogram(facts),
  }


def _histogram(facts: Sequence[cards.Facts]) -> markupsafe.Markup:
  returns = [x.return_ for x in facts]
  completed = [x.completed for x in facts]
  return webpages.drawing(
    pictures.plot_returns(returns, completed, '', 'episodes')
  )
