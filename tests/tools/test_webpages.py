"""Pages of one file, and the check of them, in a real browser."""

from matplotlib import figure
import numpy as np
import pytest
from tools.showing import webpages


@pytest.fixture
def template(tmp_path):
  """Writes a template that extends the base of all pages; returns its path."""
  path = tmp_path / 'template.html'

  def write(content):
    path.write_text(
      '{% extends "base.html" %}{% block content %}'
      + content
      + '{% endblock %}'
    )
    return path

  return write


def plot():
  picture = figure.Figure()
  picture.subplots().plot([0, 1, 4])
  return webpages.drawing(picture)


def test_a_page_holds_its_pictures_and_escapes_text(
  template, check_page, tmp_path
):
  written = template(
    '<p>{{ text }}</p><img src="{{ frame }}" alt="frame">'
    '<img src="{{ plot }}" alt="plot">'
  )
  page = tmp_path / 'page.html'
  frame = webpages.picture(np.zeros((64, 64, 3), np.uint8))
  webpages.save(
    page, written, text='<script>x</script>', frame=frame, plot=plot()
  )
  check_page(page)
  assert '&lt;script&gt;' in page.read_text()
  assert plot() == plot()


@pytest.mark.parametrize(
  'content',
  [
    '<img src="data:image/png;base64,AAAA" alt="damaged">',
    '<img src="{{ frame }}">',
    '<div style="width: 2000px">wide</div>',
    '<img src="http://localhost:9/x.png" alt="elsewhere">',
  ],
)
def test_the_check_of_a_page_can_fail(content, template, check_page, tmp_path):
  written = template(content)
  frame = webpages.picture(np.zeros((64, 64, 3), np.uint8))
  webpages.save(tmp_path / 'page.html', written, frame=frame)
  with pytest.raises(AssertionError):
    check_page(tmp_path / 'page.html')
