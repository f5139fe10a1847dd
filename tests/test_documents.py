"""What the documents show is true: tables, pictures, links and examples."""

import ast
from collections.abc import Iterator
import os
from pathlib import Path
import re
import shlex
import subprocess
import sys

from carracing_data import prepared_dataset
from conftest import PROJECT
import imageio.v3 as imageio
from models import agent
from PIL import Image
import pytest
import simple_parsing
from tensorflow_datasets.scripts.cli import main as tfds_cli
from test_help import BINARIES
from tools.driving import track_scores
from tools.figures import __main__ as figures
from tools.figures import animation

DOCUMENTS = sorted(
  path
  for path in PROJECT.rglob('*.md')
  if not {'.venv', '.pytest_cache', 'node_modules'} & {*path.parts}
)
TINY = 'carracing_rollouts/tiny'
# Programs that take seconds with small inputs and the defaults of the rest.
READERS = 'tools.browse_rollouts', 'tools.verify', 'tools.view_rollouts'
QUICK = 'tools', 'tools.compare_runs', 'tools.export_page', *READERS


def without_code(path):
  return re.sub(r'^```.*?^```', '', path.read_text(), flags=re.M | re.DOTALL)


def test_no_table_is_stale():
  for path, text in figures.documents().items():
    assert path.read_text() == text, f'{path} is stale: run make figures'


def test_the_recorded_score_is_that_of_the_pretrained_agent():
  found = track_scores.read(agent.PRETRAINED / track_scores.FILE)
  assert found.subject.driver.agent == agent.digests(agent.PRETRAINED)
  assert found.summary.episodes == 1000
  assert found.subject.tracks == 'final'


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
    assert picture.n_frames == 166


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


def test_the_examples_from_pytorch_run(data_dir, tmp_path):
  pytest.importorskip('stable_baselines3')
  text = (PROJECT / 'docs' / 'PYTORCH.md').read_text()
  code = '\n'.join(re.findall(r'```python\n(.*?)```', text, re.DOTALL))
  for large, small in (
    ("'carracing_rollouts'", repr(TINY)),
    ('500_000', '64'),
    ('n_steps=128', 'n_steps=1'),
    ('batch_size=512', 'batch_size=64'),
    ("CarRacingLatent-v0'", "CarRacingLatent-v0', max_episode_steps=5"),
    ('tracks.DEVELOPMENT[:8]', 'tracks.DEVELOPMENT[:1]'),
  ):
    code = code.replace(large, small)
  code += """
assert batch.observation.shape[1:] == (33, 64, 64, 3)
assert batch.action.shape[1:] == (32, 3)
assert x.max() <= 1 and len(episode.reward) == 71
assert len(returns) == 1 and -90 < returns[0] < 90
"""
  done = subprocess.run(
    [sys.executable, '-c', code],
    env={
      **os.environ,
      'TFDS_DATA_DIR': str(data_dir),
      'TMPDIR': str(tmp_path),
    },
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  assert 'Warning' not in done.stderr, done.stderr


def shell_of(path: Path) -> Iterator[str]:
  """Yields what a document, or the help of a program, tells users to type."""
  text = path.read_text()
  if path.suffix == '.py':
    text = ast.get_docstring(ast.parse(text)) or ''
    yield from re.findall(r'^  (python -m (?:.*\\\n)*.*)', text, re.M)
    return
  yield from re.findall(r'^ *```sh\n(.*?)^ *```', text, re.M | re.DOTALL)
  text = re.sub(r'^ *```.*?^ *```', '', text, flags=re.M | re.DOTALL)
  yield from (' '.join(x.split()) for x in re.findall(r'`([^`]+)`', text))


def commands(path: Path) -> Iterator[tuple[str, list[str]]]:
  """Yields the programs that a document names, with their arguments."""
  for shell in shell_of(path):
    if not re.search(r'python -m \w|tfds build', shell):
      continue
    shell = re.sub(r'(\s#.*|…)|\\\n', '', shell)
    words = shlex.shlex(shell, posix=True, punctuation_chars='\n&|;()')
    words.whitespace, words.whitespace_split = ' ', True
    words.commenters = ''
    line = []
    for word in [*words, '\n']:
      if word.strip('\n&|;()'):
        line.append(word)
        continue
      if 'python' in [Path(x).name for x in line]:
        _, module, *arguments = line[line.index('-m') :]
        yield module, arguments
      elif line[:1] == ['tfds']:
        yield 'tfds', line[1:]
      line = []


@pytest.mark.parametrize(
  'path',
  [x for x in (*DOCUMENTS, *BINARIES.values()) if [*commands(x)]],
  ids=lambda x: str(x.relative_to(PROJECT)),
)
def test_commands_are_understood(path: Path, command):
  """A program, its flags and their values exist, even if they name no file."""
  for module, arguments in commands(path):
    if module == 'pytest':
      assert all((PROJECT / x).exists() for x in arguments), arguments
    elif module == 'tfds':
      for preset in re.findall(r'\$\(cat (\S+)\)', ' '.join(arguments)):
        assert (PROJECT / preset).exists() or 'NAME' in preset
      # Without the flags of absl that this process knows from other tests.
      parser = simple_parsing.ArgumentParser(allow_abbrev=False)
      parser.add_arguments(tfds_cli.Args, dest='args')
      build = parser.parse_args(arguments).args.command
      for name in {*build.datasets} - {'NAME'}:  # pyright: ignore
        assert (PROJECT / 'datasets' / Path(name).name).exists()
    else:
      if any(not x.startswith('--') for x in arguments):
        assert 'takes_arguments=True' in BINARIES[module].read_text(), arguments
      arguments = [x.replace('$seed', '0') for x in arguments]
      done = command(module, *arguments, '--only_check_args')
      if 'is required' not in done.stderr:  # Prose may name a part.
        assert done.status == 0, (arguments, done.stderr)


@pytest.fixture
def project(world, tmp_path):
  """A folder in which quick commands find what they read."""
  (tmp_path / 'runs').mkdir()
  for name in 'a', 'b':
    (tmp_path / 'runs' / name).symlink_to(world.mdn_rnn.parent)
  return tmp_path


def test_quick_commands_run(command, world, project):
  lines = {
    (module, *arguments)
    for path in DOCUMENTS
    for module, arguments in commands(path)
    if module in QUICK and not {'$', '*'} & {*' '.join(arguments)}
  }
  assert len(lines) > 5
  digest = prepared_dataset.find(TINY, world.data_dir).digest
  for module, *arguments in sorted(lines):
    # Small datasets stand for those of the documents.
    if module in READERS:
      arguments = [f'--dataset={TINY}', *arguments]
    arguments = [
      re.sub(
        r'^--dataset=(carracing_\w+).*',
        r'--dataset=\1/tiny',
        re.sub(r'^--expect=.*', f'--expect={digest}', x),
      )
      for x in arguments
    ]
    data = {'TFDS_DATA_DIR': str(world.data_dir)}
    done = command(module, *arguments, cwd=project, environment=data)
    assert done.status == 0, (module, arguments, done.stderr)


def test_every_promise_has_its_test():
  table = (PROJECT / 'tests' / 'README.md').read_text()
  named = re.findall(r'`(test_\w+)`', table)
  there = [
    name
    for path in (PROJECT / 'tests').rglob('test_*.py')
    for name in re.findall(r'^def (test_\w+)', path.read_text(), re.MULTILINE)
  ]
  assert len(named) > 50
  assert not {*named} - {*there}
