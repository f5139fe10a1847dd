"""Writes HTML pages of one file: templates, pictures and styles in one.

The pages need no script, no server and no network. Their templates lie beside
the code that fills them and extend `templates/base.html`.
"""

import base64
import io
from pathlib import Path
from typing import Any

from carracing_data import files
import jinja2
import markupsafe
import matplotlib
from matplotlib import figure
import numpy as np
from PIL import Image

BEGINS = b'<!doctype html>'
_BASE = Path(__file__).parent / 'templates'
_SALT = 'carracing'  # Makes the identifiers in an SVG the same every time.


def save(path: Path, template: Path, **values: Any) -> None:
  """Renders a template; values are escaped unless they are `Markup`.

  Args:
    path: HTML file to write; replaced if it exists.
    template: file of the template.
    **values: variables of the template, all of which it must be given.

  Raises:
    errors.UserError: the file cannot be written.
  """
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader([template.parent, _BASE], encoding='utf-8'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  html = environment.get_template(template.name).render(**values)
  path = files.claim_file(path, BEGINS)
  files.replace(path, lambda file: file.write_bytes(html.encode()))


def data_url(content: bytes, media_type: str) -> markupsafe.Markup:
  """Returns a URL that holds a file, for `src`.

  Args:
    content: bytes of the file.
    media_type: its type, e.g. `image/png`.
  """
  text = base64.b64encode(content).decode()
  return markupsafe.Markup(f'data:{media_type};base64,{text}')


def picture(frame: np.ndarray) -> markupsafe.Markup:
  """Returns a frame, uint8 [H, W, 3], as the URL of a PNG."""
  file = io.BytesIO()
  Image.fromarray(frame).save(file, 'PNG')
  return data_url(file.getvalue(), 'image/png')


def drawing(plot: figure.Figure) -> markupsafe.Markup:
  """Returns a matplotlib figure as the URL of an SVG; the same bytes always."""
  file = io.StringIO()
  with matplotlib.rc_context({'svg.hashsalt': _SALT}):
    plot.savefig(file, format='svg', metadata={'Date': None})
  return data_url(file.getvalue().encode(), 'image/svg+xml')
