"""Pages of a whole dataset, in a real browser."""

import re
import shutil

from carracing_data import errors
from carracing_data import prepared_dataset
from carracing_rollouts import action_log
from carracing_rollouts import loader
import imageio.v3 as imageio
import numpy as np
import pytest
from tools.browse_rollouts import episodes
from tools.browse_rollouts import pages
from tools.showing import rollout_statistics


@pytest.fixture(scope='module')
def folder(data_dir, tmp_path_factory):
  """Pages of 3 + 1 episodes, two on a page."""
  folder = tmp_path_factory.mktemp('browser')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pages, '_PAGE_EPISODES', 2)
    pages.make('carracing_rollouts/tiny', str(data_dir), folder)
  return folder


def test_every_episode_of_all_splits_is_shown_and_has_a_video(folder, data_dir):
  shown = []
  for page in 'index.html', 'page_2.html':
    text = (folder / page).read_text()
    shown += re.findall('<article id="(.*?)">', text)
    for video in re.findall(r'src="(videos/.*?)"', text):
      assert (folder / video).exists()
  assert shown == ['train-0', 'train-1', 'train-2', 'validation-0']

  episode = loader.episodes('carracing_rollouts/tiny', data_dir=data_dir)[1]
  video = imageio.imread(folder / 'videos' / 'train-1.mp4', plugin='pyav')
  assert video.shape == (71, 128, 128, 3)
  error = video[:, ::2, ::2].astype(float) - episode.observation
  assert np.abs(error).mean() < 6
  text = (folder / 'index.html').read_text()
  assert f'return <b>{episode.reward.sum():.1f}</b>' in text


def test_a_browser_shows_the_pages_and_plays_the_videos(
  folder, check_page, browser
):
  check_page(folder / 'index.html')
  check_page(folder / 'page_2.html')
  page = browser.new_page()
  page.goto((folder / 'index.html').as_uri())
  page.get_by_role('link', name='validation', exact=True).click()
  assert page.url.endswith('page_2.html#validation-0')
  video = page.locator('#validation-0 video')
  video.evaluate('(video) => video.play()')
  page.wait_for_function(
    '(x) => x.currentTime > 0.1', arg=video.element_handle()
  )
  page.get_by_role('link', name='First').first.click()
  assert page.get_by_text('Page 1 of 2').first.is_visible()
  page.close()


def test_a_second_run_makes_only_what_is_missing(folder, data_dir, tmp_path):
  kept = shutil.copytree(folder, tmp_path / 'kept')
  (kept / 'index.html').unlink()
  (kept / 'videos' / 'train-1.mp4').unlink()
  (kept / 'videos' / f'.train-1.mp4.{"0a" * 16}.tmp').touch()
  before = (kept / 'videos' / 'train-0.mp4').stat().st_mtime_ns
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pages, '_PAGE_EPISODES', 2)
    pages.make('carracing_rollouts/tiny', str(data_dir), kept)
  assert (kept / 'videos' / 'train-0.mp4').stat().st_mtime_ns == before
  for path in folder.rglob('*'):  # The same bytes again.
    if path.is_file():
      found = kept / path.relative_to(folder)
      assert found.read_bytes() == path.read_bytes()
  assert not list(kept.rglob('*.tmp'))


@pytest.mark.parametrize('damage', ['empty', 'page', 'half', 'folder'])
def test_what_is_no_video_is_made_again(damage, folder, data_dir, tmp_path):
  kept = shutil.copytree(folder, tmp_path / 'kept')
  video = kept / 'videos' / 'train-1.mp4'
  whole = video.read_bytes()
  contents = {'empty': b'', 'page': b'<html>', 'half': whole[: len(whole) // 2]}
  if damage == 'folder':
    video.unlink()
    video.mkdir()
    with pytest.raises(errors.UserError, match='cannot write .*train-1.mp4'):
      pages.make('carracing_rollouts/tiny', str(data_dir), kept)
  else:
    video.write_bytes(contents[damage])
    pages.make('carracing_rollouts/tiny', str(data_dir), kept)
    assert video.read_bytes() == whole


def test_a_folder_belongs_to_one_dataset(folder, data_dir):
  name = 'carracing_rollouts/straight_ahead'
  with pytest.raises(errors.UserError, match='holds the pages of .*tiny'):
    pages.make(name, str(data_dir), folder)


def test_facts_tell_how_an_episode_ended(data_dir):
  name = 'carracing_rollouts/straight_ahead'
  prepared = prepared_dataset.find(name, data_dir)
  facts = rollout_statistics.read(prepared).facts['train', 0]
  [episode] = loader.episodes(name, data_dir=data_dir)
  assert facts.num_steps == len(episode)
  assert facts.ending == 'lap not completed: the car left the playing field'
  assert not facts.completed


def test_statistics_of_a_card_lie_beside_the_pages(folder, data_dir):
  prepared = prepared_dataset.find('carracing_rollouts/tiny', data_dir)
  returns = [
    episode.reward.sum(dtype=np.float64)
    for split in ('train', 'validation')
    for episode in loader.episodes(str(prepared.folder), split=split)
  ]
  text = (folder / 'statistics.md').read_text()
  assert text.startswith(f'Computed from `{prepared.citation}` by ')
  # Sample standard deviations, of metadata and of episodes; none of a single.
  for values in returns[:3], returns:
    assert f' {np.mean(values):.1f} ± {np.std(values, ddof=1):.1f} |' in text
  assert f'| 71 | {returns[3]:.1f} | {returns[3]:.1f} |' in text
  assert imageio.imread(folder / 'statistics.png').shape[:2] == (600, 1200)
  assert imageio.imread(folder / 'contact_sheet.png').shape[1] > 1000
  page = (folder / 'index.html').read_text()
  for row in text.splitlines():
    if row.startswith('| ') and '---' not in row:
      for cell in row.strip('| ').split(' | '):
        assert f'>{cell}</' in page


def test_statistics_are_the_same_in_any_order(data_dir):
  prepared = prepared_dataset.find('carracing_rollouts/tiny', data_dir)
  expected = rollout_statistics.read(prepared)
  collected = rollout_statistics.Collector()
  for key in reversed(expected.facts):
    split, i = key
    episode = loader.episodes(str(prepared.folder), split=split)[i]
    assert collected.add(key, episode) == expected.facts[key]
  found = collected.statistics(prepared, {'a': [*expected.facts], 'b': []})
  assert [*found.facts] == [*expected.facts]
  assert found.actions == expected.actions
  assert found.drivers.rows[0][1:] == expected.drivers.rows[0][1:]
  assert len(found.drivers.rows) == 1
  np.testing.assert_array_equal(found.mean_frame, expected.mean_frame)


def test_title_of_an_agent_can_tell_which_one_it_is():
  sha256 = {'vae': 'a' * 64, 'mdn_rnn': 'b' * 64, 'controller': 'c' * 64}
  driver = action_log.Driver(
    name='agent', weights_sha256=action_log.AgentWeights(**sha256), noise=0.3
  )
  assert driver.title == 'agent, noise 0.3'
  assert driver.full_title == 'agent, noise 0.3 (C cccccccc)'


@pytest.mark.parametrize('count', [1, 7, 199, 1000])
def test_plots_lose_no_extreme(count):
  values = np.zeros(count, np.float32)
  values[count // 2] = 1
  values[-1] = -1
  plot = episodes.plot(values, -1, 1)
  heights = [int(x) for x in re.findall(r'V(\d+)', plot.path)]
  assert min(heights) == (0 if count > 1 else plot.height)
  assert max(heights) == plot.height
  assert plot.path.count('h1') == plot.columns <= 200
  assert plot.zero == plot.height / 2
