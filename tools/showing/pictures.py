"""Saves rows of frames and histograms as pictures, and frames as videos."""

from collections.abc import Iterable, Mapping, Sequence
import io
from pathlib import Path

import av
from carracing_data import files
import cv2
from gymnasium.envs.box2d import car_racing
from matplotlib import figure
from matplotlib import ticker
import numpy as np

_CELL_INCHES = 1.1
_PANEL_PIXELS = 384
_GAP_PIXELS = 8
_CAPTION_PIXELS = 32
_MAX_BINS = 40  # Of a histogram.


def save_strip(
  path: Path,
  rows: Mapping[str, np.ndarray],
  titles: Sequence[str],
  heading: str,
) -> None:
  """Saves rows of frames, one below the other, as a PNG.

  Args:
    path: output file.
    rows: frames by name of the row, uint8 [N, H, W, 3] each.
    titles: titles of the N columns.
    heading: title of the picture.
  """
  columns = len(titles)
  picture = figure.Figure(
    figsize=(_CELL_INCHES * columns + 1, _CELL_INCHES * len(rows) + 0.6),
    layout='compressed',
  )
  axes = picture.subplots(len(rows), columns, squeeze=False)
  for row_axes, (name, frames) in zip(axes, rows.items(), strict=True):
    for axis, frame in zip(row_axes, frames, strict=True):
      axis.imshow(frame, interpolation='nearest')
      axis.set(xticks=[], yticks=[])
    row_axes[0].set_ylabel(name.replace(' ', '\n'), fontsize=9)
  for axis, title in zip(axes[0], titles):
    axis.set_title(title, fontsize=9)
  picture.suptitle(heading)
  path = files.claim_file(path)
  files.replace(path, lambda file: picture.savefig(file, dpi=120, format='png'))


def save_returns(
  path: Path, returns: Sequence[float], completed: Sequence[bool], heading: str
) -> None:
  """Saves a histogram of returns as a PNG.

  Args:
    path: output file.
    returns: returns of at least one episode.
    completed: whether the lap was completed, for each episode.
    heading: title of the picture.
  """
  picture = plot_returns(returns, completed, heading, 'tracks')
  files.replace(path, lambda file: picture.savefig(file, dpi=120, format='png'))


def plot_returns(
  returns: Sequence[float],
  completed: Sequence[bool],
  heading: str,
  counted: str,
  inches: tuple[float, float] = (8, 4.2),
) -> figure.Figure:
  """Draws a histogram of returns.

  Args:
    returns: returns of at least one episode.
    completed: whether the lap was completed, for each episode.
    heading: title of the picture.
    counted: what is counted, in the plural.
    inches: width and height.
  """
  edges = _edges(returns)
  groups = {
    'lap completed': [r for r, lap in zip(returns, completed) if lap],
    'not completed': [r for r, lap in zip(returns, completed) if not lap],
  }
  colors = {'lap completed': 'tab:blue', 'not completed': 'tab:orange'}
  shown = {name: group for name, group in groups.items() if group}
  picture = figure.Figure(figsize=inches, layout='constrained')
  axis = picture.subplots()
  axis.hist(
    list(shown.values()),
    edges.tolist(),
    stacked=True,
    color=[colors[name] for name in shown],
    label=[f'{name} ({len(group)})' for name, group in shown.items()],
    edgecolor='white',
    linewidth=0.5,
  )
  mean = float(np.mean(returns))
  axis.axvline(mean, color='black', linestyle='--', label=f'mean {mean:.1f}')
  axis.set(xlabel='return', ylabel=counted, xlim=(edges[0], edges[-1]))
  axis.yaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  axis.spines[['top', 'right']].set_visible(False)
  axis.set_ylim(top=1.4 * axis.get_ylim()[1])  # Room for the legend.
  axis.legend(frameon=False, loc='upper left')
  axis.set_title(heading, fontsize=9)
  return picture


def _edges(returns: Sequence[float]) -> np.ndarray:
  """Returns edges of bins of a round width, beyond all returns."""
  low, high = min(returns), max(returns)
  for width in (5, 10, 25, 50):
    if high - low < width * _MAX_BINS:
      break
  # A margin of a bin on each side keeps a lone bar from filling the picture.
  first, last = np.floor(low / width) - 1, np.floor(high / width) + 2
  return width * np.arange(first, last + 1)


def save_video(
  path: Path, panels: Mapping[str, np.ndarray], captions: Sequence[str]
) -> None:
  """Saves panels side by side as an MP4 that plays in real time.

  Args:
    path: output file.
    panels: frames by name of the panel, uint8 [T, S, S, 3] each.
    captions: captions of the T frames, shown below the panels.
  """
  _save_mp4(
    files.claim_file(path),
    (
      _video_frame({k: v[i] for k, v in panels.items()}, caption)
      for i, caption in enumerate(captions)
    ),
  )


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


def _video_frame(panels: Mapping[str, np.ndarray], caption: str) -> np.ndarray:
  size = (_PANEL_PIXELS, _PANEL_PIXELS)
  gap = np.full(
    (_CAPTION_PIXELS + _PANEL_PIXELS, _GAP_PIXELS, 3), 255, np.uint8
  )
  images = []
  for name, frame in panels.items():
    image = cv2.resize(frame, size, interpolation=cv2.INTER_NEAREST)
    images += [gap, np.concatenate([_text(name, _PANEL_PIXELS), image])]
  body = np.concatenate(images[1:], axis=1)  # Gaps lie between the panels.
  return np.concatenate([body, _text(caption, body.shape[1])])


def _text(text: str, width: int) -> np.ndarray:
  strip = np.full((_CAPTION_PIXELS, width, 3), 255, np.uint8)
  cv2.putText(
      strip, text, (8, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1,
      cv2.LINE_AA,
  )  # fmt: skip
  return strip
