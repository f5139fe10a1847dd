"""Frames side by side and histograms, as files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from carracing_data import files
from matplotlib import figure
from matplotlib import ticker
import numpy as np

_CELL_INCHES = 1.1
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
  axes = picture.subplots(len(rows), 1, squeeze=False)[:, 0]
  for axis, (name, frames) in zip(axes, rows.items(), strict=True):
    gap = frames.shape[2] // 16
    axis.imshow(side_by_side(frames, gap), interpolation='nearest')
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.set_ylabel(name.replace(' ', '\n'), fontsize=9)
  first = next(iter(rows.values()))
  width = first.shape[2]
  centres = np.arange(columns) * (width + width // 16) + width / 2
  axes[0].set_xticks(centres, titles, fontsize=9)
  axes[0].tick_params(labelbottom=False, labeltop=True, length=0)
  picture.suptitle(heading)
  path = files.claim_file(path)
  files.replace(path, lambda file: picture.savefig(file, dpi=120, format='png'))


def side_by_side(frames: np.ndarray, gap: int = 1) -> np.ndarray:
  """Returns frames side by side, with white between them, uint8 [H, W, 3].

  Args:
    frames: uint8 [N, H, W, 3]; or rows of them, [R, N, H, W, 3].
    gap: pixels between frames.
  """
  rows = frames if frames.ndim == 5 else frames[None]
  spread = (0, 0), (0, 0), (0, gap), (0, gap), (0, 0)
  apart = np.pad(rows, spread, constant_values=255)
  num_rows, columns, height, width, _ = apart.shape
  sheet = apart.swapaxes(1, 2).reshape(num_rows * height, columns * width, 3)
  return sheet[: len(sheet) - gap, : columns * width - gap]


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
