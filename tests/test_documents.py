"""What the documents show is true: tables, pictures, links and examples."""

import os
from pathlib import Path
import re
import subprocess
import sys

from conftest import PROJECT
import imageio.v3 as imageio
from models import agent
from PIL import Image
import pytest
from tools.driving import track_scores
from tools.figures import __main__ as figures
from tools.figures import animation

DOCUMENTS = sorted(
  path
  for path in PROJECT.rglob('*.md')
  if not {'.venv', '.pytest_cache', 'node_modules'} & {*path.parts}
)
TINY = 'carracing_rollouts/tiny'


def without_code(path):
  return re.sub(r'^```.*?^```', '', path.read_text(), flags=re.M | re.DOTALL)


def test_no_table_is_stale():
  for path, text in figures.documents().items():
    assert path.read_text() == text, f'{path} is stale: run make figures'


def test_the_recorded_score_is_that_of_the_pretrained_agent():
  found = track_scores.read(agent.PRETRAINED / track_scores.FILE)
  assert found.subject.driver.agent == agent.digests(agent.PRETRAINED)
  assert found.summary.episodes == 1000
  assert found.subject.tracks == 'test'


def test_the_animation_shows_the_agent(agent_folder, tmp_path, monkeypatch):
  monkeypatch.setattr(animation, '_FIRST_STEP', 3)
  monkeypatch.setattr(animation, '_STEPS', 6)
  driver = agent.load(agent_folder)
  path = tmp_path / 'new' / 'drive.webp'
  animation.save(path, driver, 0)
  first, second = imageio.imread(path, plugin='pillow', index=...)
  assert (first != second).any()
  shipped = PROJECT / figures.ANIMATION
  assert shipped.stat().st_size <= 3e6
  with Image.open(shipped) as picture:
    assert picture.n_frames == 200


@pytest.mark.parametrize(
  'path', DOCUMENTS, ids=lambda x: str(x.relative_to(PROJECT))
)
def test_links_lead_somewhere(path: Path):
  text = path.read_text()
  for link in re.findall(r'\]\(([^)\s]+)\)', text):
    if link.startswith(('http:', 'https:')):
      continue
    file, _, heading = link.partition('#')
    target = (path.parent / file).resolve() if file else path
    assert target.exists(), link
    if heading:
      anchors = [
        re.sub(r'[^\w -]', '', x).strip().lower().replace(' ', '-')
        for x in re.findall(r'^#+ (.*)', without_code(target), re.MULTILINE)
      ]
      assert heading in anchors, link


def test_the_examples_of_the_readme_run(data_dir, tmp_path):
  (tmp_path / 'tensorflow_datasets').symlink_to(data_dir)
  card = PROJECT / 'datasets' / 'carracing_rollouts' / 'README.md'
  examples = [
    example
    for path in (PROJECT / 'README.md', card)
    for example in re.findall(
      r'```python\n(.*?)```', path.read_text(), re.DOTALL
    )
  ]
  assert len(examples) == 4
  # The default dataset takes a minute to build; `tiny` is there.
  code = '\n'.join(examples).replace("'carracing_rollouts'", repr(TINY))
  code = code.replace('carracing_rollouts/default', TINY)
  environment = {x: y for x, y in os.environ.items() if x != 'TFDS_DATA_DIR'}
  done = subprocess.run(
    [sys.executable, '-c', code],
    env={**environment, 'HOME': str(tmp_path)},
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
