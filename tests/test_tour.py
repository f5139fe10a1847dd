"""The tour, docs/tour.ipynb: it runs, and it is stored with its pictures."""

from pathlib import Path
import shutil
import subprocess
import sys

from conftest import PROJECT
import nbformat
from tools.figures import __main__ as figures

TOUR = PROJECT / 'docs' / 'tour.ipynb'


def code_cells(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == 'code']


def num_pictures(notebook):
  return [
    sum('image/png' in output.get('data', {}) for output in cell.outputs)
    for cell in code_cells(notebook)
  ]


def printed(notebook):
  return [
    output.text
    for cell in code_cells(notebook)
    for output in cell.outputs
    if output.get('name') == 'stdout'
  ]


def test_tour_runs_and_shows_as_many_pictures_as_are_stored(tmp_path):
  stored = nbformat.read(TOUR, as_version=4)
  copy = shutil.copy(TOUR, tmp_path)
  execute = Path(sys.executable).with_name('jupyter-execute')
  subprocess.run(
    [execute, '--inplace', '--kernel_name=python3', copy], check=True
  )
  text = figures.without_traces((tmp_path / TOUR.name).read_text())
  ran = nbformat.reads(text, as_version=4)
  assert ran.metadata == stored.metadata
  assert not any(cell.metadata for cell in code_cells(ran))
  assert num_pictures(ran) == num_pictures(stored)
  assert sum(num_pictures(ran)) >= 6
  # Among them the digests of the data, which are the same everywhere.
  assert printed(ran)[0] == printed(stored)[0]
  counts = [cell.execution_count for cell in code_cells(ran)]
  assert counts == [cell.execution_count for cell in code_cells(stored)]


def test_taking_traces_out_leaves_the_stored_tour_as_it_is():
  assert figures.without_traces(TOUR.read_text()) == TOUR.read_text()


def test_stored_tour_is_small_and_says_nothing_of_the_machine():
  text = TOUR.read_text()
  assert len(text) < 500_000
  for word in '/tmp', '/home', '/root', 'stderr', 'iopub':
    assert word not in text
