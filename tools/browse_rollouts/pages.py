"""A prepared rollouts dataset → HTML pages of its episodes, and statistics.

A folder belongs to the content of one dataset. Videos, which take most of the
time, are made in several processes, and later runs keep them. Pages are written
from the last one to the first, which sums up all episodes.
"""

from collections.abc import Mapping, Sequence
import functools
from pathlib import Path
from typing import Any

from carracing_data import errors
from carracing_data import files
from carracing_data import json_documents
from carracing_data import prepared_dataset
from carracing_data import processes
from carracing_data import progress
from carracing_rollouts import loader
from carracing_rollouts import schema
from carracing_rollouts import who_drove
from tools.browse_rollouts import episodes as episodes_lib
from tools.showing import films
from tools.showing import markdown
from tools.showing import pictures
from tools.showing import rollout_statistics
from tools.showing import webpages

INDEX = 'index.html'
VIDEOS = 'videos'
_TABLES, _HISTOGRAMS = 'statistics.md', 'statistics.png'
_SHEET = 'contact_sheet.png'
_SUBJECT = 'dataset.json'
_PAGE_EPISODES = 50
_VIDEOS_PER_JOB = 10
_NUM_EXTREMES = 5  # Episodes named for their high or low returns.


class _Subject(json_documents.Document):
  """`dataset.json`: what the pages and videos of a folder are of."""

  dataset: str
  metadata_sha256: json_documents.Sha256


def make(dataset: str, data_dir: str | None, output_dir: Path) -> Path:
  """Writes the videos that are missing, and all pages; returns the first one.

  The dataset is found as by `prepared_dataset.find`.

  Raises:
    errors.DatasetError: there is no such dataset, or it is damaged.
    errors.DocumentError: `dataset.json` in the output directory is damaged.
    errors.UserError: the output directory holds the pages of another dataset,
      is not writable, or another process is writing to it.
  """
  prepared = prepared_dataset.find(dataset, data_dir, schema.KIND)
  # Opened first: much of what may be wrong shows before an hour of work.
  episodes = {
    split: loader.episodes(str(prepared.folder), split=split)
    for split in schema.SPLITS
  }
  driven = who_drove.of_dataset(prepared)
  files.refuse_link(output_dir / VIDEOS)
  files.claim_folder(output_dir / VIDEOS)
  with files.locked(output_dir), files.write_errors(output_dir):
    _claim(output_dir, prepared)
    for folder in output_dir, output_dir / VIDEOS:
      files.remove_temporary(folder)
    _make_videos(prepared, output_dir)
    _write_pages(prepared, episodes, driven, output_dir)
  return output_dir / INDEX


def _claim(output_dir: Path, prepared: prepared_dataset.Dataset) -> None:
  """Raises UserError if a folder belongs to the pages of other data."""
  path = output_dir / _SUBJECT
  wanted = _Subject(
    dataset=prepared.full_name,
    metadata_sha256=prepared.metadata.metadata_sha256,
  )
  try:
    found = json_documents.read(path, _Subject)
  except FileNotFoundError:
    names = INDEX, 'page_*.html', _TABLES, _HISTOGRAMS, _SHEET, f'{VIDEOS}/*'
    for foreign in (x for name in names for x in output_dir.glob(name)):
      raise errors.UserError(
        f'{foreign} is not of this program; choose another --output_dir'
      ) from None
    json_documents.write(path, wanted.model_dump())
    return
  except errors.DocumentError as error:
    raise errors.DocumentError(
      f'{error}; choose another --output_dir, or delete {output_dir}'
    ) from None
  if found != wanted:
    raise errors.UserError(
      f'{output_dir} holds the pages of {found.dataset} with the digest'
      f' {found.metadata_sha256[:8]}, not of {wanted.dataset} with'
      f' {wanted.metadata_sha256[:8]}; choose another --output_dir'
    )


def _video(split: str, episode_id: int) -> str:
  """Returns the path of a video in the output directory."""
  return f'{VIDEOS}/{episodes_lib.anchor((split, episode_id))}.mp4'


def _page(index: int) -> str:
  """Returns the page of an episode, of an index among those of all splits."""
  number = index // _PAGE_EPISODES + 1
  return INDEX if number == 1 else f'page_{number}.html'


def _make_videos(prepared: prepared_dataset.Dataset, output_dir: Path) -> None:
  """Makes the missing videos, and those that are none."""
  jobs, total = [], 0
  for split in schema.SPLITS:
    ids = range(prepared.splits[split].num_episodes)
    missing = [
      i for i in ids if not films.is_film(output_dir / _video(split, i))
    ]
    total += len(ids)
    jobs += [
      functools.partial(
        _save_videos,
        str(prepared.folder),
        split,
        missing[start : start + _VIDEOS_PER_JOB],
        output_dir,
      )
      for start in range(0, len(missing), _VIDEOS_PER_JOB)
    ]

  def count() -> int:
    return len(list((output_dir / VIDEOS).glob('*.mp4')))

  with progress.watching('videos', 'episodes', total, count):
    processes.run_locally(jobs, min(processes.num_cores(), len(jobs)))


def _save_videos(
  dataset: str, split: str, episode_ids: Sequence[int], output_dir: Path
) -> None:
  episodes = loader.episodes(dataset, split=split)
  for i in episode_ids:
    films.save_observations(
      output_dir / _video(split, i), episodes[i].observation
    )


def _write_pages(
  prepared: prepared_dataset.Dataset,
  episodes: Mapping[str, Sequence[schema.Episode]],
  driven: Mapping[str, Sequence[who_drove.Origin]],
  output_dir: Path,
) -> None:
  """Writes the pages in reverse: the first one sums up all episodes."""
  keys = [(split, i) for split in episodes for i in range(len(episodes[split]))]
  starts = range(0, len(keys), _PAGE_EPISODES)
  by_driver = who_drove.by_driver(driven)
  drivers = {key: title for title, ids in by_driver.items() for key in ids}
  collected = rollout_statistics.Collector()
  with progress.Progress('pages', 'episodes', len(keys)) as counted:
    counted.start()
    for start in reversed(starts):
      shown = []
      for key in keys[start : start + _PAGE_EPISODES]:
        split, i = key
        episode = episodes[split][i]
        shown.append(
          episodes_lib.show(
            key,
            episode,
            collected.add(key, episode),
            drivers[key],
            driven[split][i].track_seed,
            _video(split, i),
          )
        )
        counted.count_one()
      summary = None
      if start == 0:
        found = collected.statistics(prepared, by_driver)
        _write_statistics(prepared, found, output_dir)
        summary = _summary(found)
      webpages.save(
        output_dir / _page(start),
        Path(__file__).with_name('pages.html'),
        dataset=prepared.full_name,
        citation=prepared.citation,
        pages=[_page(start) for start in starts],
        number=start // _PAGE_EPISODES + 1,
        episodes=shown,
        summary=summary,
      )


def _write_statistics(
  prepared: prepared_dataset.Dataset,
  found: rollout_statistics.Statistics,
  output_dir: Path,
) -> None:
  """Writes what a dataset card shows."""
  tables = (found.splits, found.drivers, found.actions)
  lines = [
    f'Computed from `{prepared.citation}` by `python -m tools.browse_rollouts`.'
  ]
  lines += [markdown.table(*table) for table in tables]
  files.replace(
    output_dir / _TABLES,
    lambda file: file.write_bytes(('\n\n'.join(lines) + '\n').encode()),
  )
  picture = rollout_statistics.histograms(found, prepared.full_name)
  files.replace(
    output_dir / _HISTOGRAMS,
    lambda file: picture.savefig(file, dpi=100, format='png'),
  )
  pictures.save_strip(
    output_dir / _SHEET,
    found.sheet,
    rollout_statistics.SHEET_TITLES,
    f'{prepared.full_name}: episodes from start to end',
  )


def _summary(found: rollout_statistics.Statistics) -> dict[str, Any]:
  """Returns what the first page tells of the dataset."""
  addresses = {
    key: f'{_page(i)}#{episodes_lib.anchor(key)}'
    for i, key in enumerate(found.facts)
  }
  ranked = [
    (episodes_lib.title(key), addresses[key], found.facts[key].return_)
    for key in sorted(found.facts, key=lambda key: -found.facts[key].return_)
  ]
  returns = [x.return_ for x in found.facts.values()]
  completed = [x.completed for x in found.facts.values()]
  return {
    'tables': (found.splits, found.drivers, found.actions),
    # The first episode of each split.
    'addresses': {split: addresses[split, 0] for split in schema.SPLITS},
    'highest': ranked[:_NUM_EXTREMES],
    'lowest': ranked[: -_NUM_EXTREMES - 1 : -1],
    'histogram': webpages.drawing(
      pictures.plot_returns(returns, completed, '', 'episodes')
    ),
    'pictures': (
      (_SHEET, 'Frames of episodes from start to end, by driver'),
      (_HISTOGRAMS, 'Histograms of lengths, returns and actions; mean frame'),
    ),
  }
