"""Frames side by side, and films with captions."""

import imageio.v3 as imageio
import numpy as np
import pytest
from tools.showing import films
from tools.showing import pictures


def test_frames_lie_side_by_side_with_white_between():
  rows = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1, 1)
  rows = np.broadcast_to(rows, (2, 3, 4, 5, 3))
  sheet = pictures.side_by_side(rows, gap=2)
  assert sheet.shape == (4 + 2 + 4, 5 + 2 + 5 + 2 + 5, 3)
  for row, column in np.ndindex(2, 3):
    top, left = 6 * row, 7 * column
    frame = sheet[top : top + 4, left : left + 5]
    assert (frame == 3 * row + column).all()
    assert (sheet[:, left + 5 : left + 7] == 255).all()
  np.testing.assert_array_equal(pictures.side_by_side(rows[0]), sheet[:4, [
    *range(6), *range(7, 13), *range(14, 19)
  ]])  # fmt: skip


@pytest.mark.parametrize('length', [10, 65])
def test_captions_are_as_long_as_the_picture_at_most(length, tmp_path):
  path = tmp_path / 'film.mp4'
  frames = np.zeros((2, 64, 64, 3), np.uint8)
  films.save_panels(path, {'black': frames}, ['x', 'M' * length])
  film = imageio.imread(path, plugin='pyav')
  assert film.shape == (2, 448, 384, 3)
  caption = film[1, 416:].min(axis=(0, 2))
  assert caption.min() < 100 and caption[-2:].min() > 200
