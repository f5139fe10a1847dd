"""Frames → films, as MP4 files that play in real time."""

from collections.abc import Iterable, Mapping, Sequence
import io
import os
from pathlib import Path
import re

import av
from carracing_data import files
from gymnasium.envs.box2d import car_racing
import matplotlib
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

_PANEL_PIXELS = 384
_GAP_PIXELS = 8
_CAPTION_PIXELS = 32
# All characters have the same width, so that captions do not tremble.
_FONT = Path(matplotlib.get_data_path()) / 'fonts/ttf/DejaVuSansMono.ttf'
_TEXT_PIXELS = 14


def save_panels(
  path: Path, panels: Mapping[str, np.ndarray], captions: Sequence[str]
) -> None:
  """Saves panels side by side as an MP4 that plays in real time.

  Args:
    path: output file.
    panels: frames by name of the panel, uint8 [T, S, S, 3] each.
    captions: captions of the T frames, shown below the panels.
  """
  width = len(panels) * (_PANEL_PIXELS + _GAP_PIXELS) - _GAP_PIXELS
  longest = max(captions, key=len)
  fonts = (ImageFont.truetype(_FONT, x) for x in range(_TEXT_PIXELS, 1, -1))
  font = next(x for x in fonts if x.getlength(longest) <= width or x.size == 2)

  def frame(index: int) -> np.ndarray:
    size = width, _PANEL_PIXELS + 2 * _CAPTION_PIXELS
    image = Image.new('RGB', size, 'white')
    draw = ImageDraw.Draw(image)
    draw.text((0, size[1] - 24), captions[index], 'black', font)
    for i, (name, frames) in enumerate(panels.items()):
      left = i * (_PANEL_PIXELS + _GAP_PIXELS)
      draw.text((left, 8), name, 'black', font)
      panel = Image.fromarray(frames[index]).resize(
        (_PANEL_PIXELS, _PANEL_PIXELS), Image.Resampling.NEAREST
      )
      image.paste(panel, (left, _CAPTION_PIXELS))
    return np.asarray(image)

  _save_mp4(files.claim_file(path), map(frame, range(len(captions))))


def save_observations(path: Path, observation: np.ndarray) -> None:
  """Saves observations alone as a small MP4 that plays in real time.

  The same observations always give the same bytes.

  Args:
    path: file to write, in an existing folder; replaced if it exists.
    observation: uint8 [T, S, S, 3].
  """
  # H.264 as browsers play it halves the resolution of colors: the red car would
  # lose its own if a pixel were not two by two.
  _save_mp4(
    path,
    (frame.repeat(2, axis=0).repeat(2, axis=1) for frame in observation),
    # The bytes depend on the number of threads.
    {'preset': 'veryfast', 'threads': '1'},
  )


def is_film(path: Path) -> bool:
  """Returns whether a file is an MP4 as it is written here, to its end."""
  if not path.is_file():
    return False
  with path.open('rb') as file:
    file.seek(-min(20, path.stat().st_size), os.SEEK_END)
    return re.search(rb'Lavf[0-9.]+\Z', file.read()) is not None


def _save_mp4(
  path: Path,
  frames: Iterable[np.ndarray],
  options: Mapping[str, str] | None = None,
) -> None:
  """Encodes frames, uint8 [H, W, 3], all of the same even size."""
  # One frame at a time: all frames of a long episode would take gigabytes, the
  # encoded video takes megabytes.
  video = io.BytesIO()
  with av.open(video, 'w', format='mp4') as container:
    stream = container.add_stream(
      'libx264', car_racing.FPS, options=dict(options or {})
    )
    for i, frame in enumerate(frames):
      if i == 0:
        stream.height, stream.width = frame.shape[:2]
      picture = av.VideoFrame.from_ndarray(frame)
      picture.pts = i
      container.mux(stream.encode(picture))
    container.mux(stream.encode())
  # Written atomically, because half a video would look complete.
  files.replace(path, lambda file: file.write_bytes(video.getbuffer()))
