import re

from carracing_data import prepared_dataset
from carracing_rollouts import loader
import imageio.v3 as imageio
import pytest
from tools import replay
from tools.showing import origins


def test_view_shows_both_sizes_of_an_episode(data_dir, command, tmp_path):
  done = command(
    'tools.view_rollouts',
    '--dataset=carracing_rollouts/tiny',
    f'--data_dir={data_dir}',
    '--episode=2',
    f'--output_dir={tmp_path}',
  )
  assert done.status == 0, done.stderr
  assert 'left out' not in done.stderr  # The replay gave the same frames.
  video = imageio.imread(tmp_path / 'train-2.mp4', plugin='pyav')
  assert len(video) == 71
  assert video.shape[2] == 384 + 8 + 384  # Both panels and the gap.
  assert imageio.imread(tmp_path / 'train-2.png').shape[1] > 1000


@pytest.mark.parametrize(
  ('simulator', 'message'),
  [
    ('gymnasium', 'from step 3 on, .*gymnasium.*pygame'),
    ('sketched', 'from step 0 on, .*gymnasium'),
    ('envpool', 'no simulator envpool'),
  ],
)
def test_view_leaves_other_frames_out(simulator, message, data_dir, caplog):
  name = 'carracing_rollouts/tiny'
  builder = prepared_dataset.find(name, data_dir)
  episode = loader.episodes(name, data_dir=data_dir)[1]
  seed = origins.Origins(builder, 'train')[1].track_seed
  assert replay.replay(builder, seed, episode).shape

  episode.observation[3, 0, 0, 0] ^= 1
  builder.config['simulator'] = simulator
  assert replay.replay(builder, seed, episode) is None
  assert re.search(message, caplog.text)
