"""What a section of a report is made of; `report.html` shows it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from carracing_data import errors
import markupsafe
from matplotlib import axes as axes_lib
from matplotlib import figure
import numpy as np
from tools.lineage import artefacts
from tools.showing import pictures
from tools.showing import webpages

PLOT_INCHES = (4.2, 2.7)  # As wide as the screen of a phone.


class Text(NamedTuple):
  """A paragraph."""

  kind = 'text'
  text: str


class Heading(NamedTuple):
  """A heading within a section."""

  kind = 'heading'
  text: str


class Table(NamedTuple):
  """A table.

  Attributes:
    head: titles of the columns.
    rows: cells.
    caption: what it shows.
  """

  kind = 'table'
  head: Sequence[str]
  rows: Sequence[Sequence[str]]
  caption: str = ''


class Picture(NamedTuple):
  """A picture.

  Attributes:
    url: holds the picture.
    alt: text that stands for it.
    caption: text below it.
  """

  url: markupsafe.Markup
  alt: str
  caption: str = ''


class Pictures(NamedTuple):
  """Pictures beside each other, as many as there is space for.

  Attributes:
    items: the pictures.
    width: least width of one of them, in pixels, if the screen has so many.
  """

  kind = 'pictures'
  items: Sequence[Picture]
  width: int = 300


class Artefacts(NamedTuple):
  """A lineage: artefacts, and where they are."""

  kind = 'artefacts'
  items: Sequence[tuple[artefacts.Artefact, str]]


Block = Text | Heading | Table | Pictures | Artefacts


def until_error(blocks: Iterator[Block]) -> list[Block]:
  """Returns blocks; the first error becomes a sentence, and ends them."""
  found: list[Block] = []
  try:
    for block in blocks:
      found.append(block)
  except (errors.UserError, OSError) as error:
    found.append(Text(f'More cannot be shown: {error}.'))
  return found


def strip(frames: np.ndarray, alt: str, caption: str) -> Picture:
  """Returns frames side by side, a little apart.

  Args:
    frames: uint8 [N, H, W, 3]; or rows of them, [R, N, H, W, 3].
    alt: see `Picture`.
    caption: see `Picture`.
  """
  return Picture(webpages.picture(pictures.side_by_side(frames)), alt, caption)


def plot(title: str) -> tuple[figure.Figure, axes_lib.Axes]:
  """Returns an empty drawing with one pair of axes."""
  drawing = figure.Figure(figsize=PLOT_INCHES, layout='constrained')
  axes = drawing.subplots()
  axes.set_title(title, fontsize=10)
  axes.tick_params(labelsize=8)
  axes.spines[['top', 'right']].set_visible(False)
  return drawing, axes
