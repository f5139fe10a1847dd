"""What programs say about themselves: `--help`, `python -m tools`, `make`."""

import os
import re
import subprocess
import sys
from xml.etree import ElementTree

from conftest import PROJECT
import pytest

BINARIES = {
  '.'.join(path.relative_to(PROJECT).with_suffix('').parts).removesuffix(
    '.__main__'
  ): path
  for room in ('datasets', 'models', 'tools', 'trainers')
  for path in sorted((PROJECT / room).rglob('*.py'))
  if "\nif __name__ == '__main__':" in path.read_text()
}
DATASETS = [
  path.parent.name for path in PROJECT.glob('datasets/*/*_dataset_builder.py')
]


@pytest.mark.parametrize('module', BINARIES)
def test_help_comes_soon_and_begins_with_an_example(module):
  done = subprocess.run(
    [sys.executable, '-m', module, '--help'],
    cwd=PROJECT,
    capture_output=True,
    text=True,
    timeout=10,
  )
  assert (done.returncode, done.stderr) == (0, '')
  text, _, of_flags = done.stdout.partition('\nflags:')
  # A sentence, examples, and then what flows in and out.
  assert re.match(rf'[A-Z].*\.\n\n  python -m {module}\b', text), text
  assert re.search(r'\n\n\S', text), text
  if re.search(
    r'flags.DEFINE|_flag|settings\w*\.run', BINARIES[module].read_text()
  ):
    assert f'{BINARIES[module].relative_to(PROJECT)}:\n  --' in of_flags
  if module.startswith('trainers'):
    assert '--config' in of_flags and '--workdir' in of_flags


@pytest.mark.parametrize('module', BINARIES)
def test_flags_are_sentences_that_tell_the_default(module, command):
  done = command(module, '--helpxml')
  assert done.status == 0, done.stderr
  for flag in ElementTree.fromstring(done.stdout).iter('flag'):
    if flag.findtext('key') == 'yes':
      meaning = flag.findtext('meaning') or ''
      meaning = re.sub(r'^<.*>: ', '', meaning)  # The values of an enum.
      assert re.fullmatch(r'[A-Z].*\.', meaning, re.DOTALL), meaning
      if not flag.findtext('default'):
        assert re.search(r'default|required', meaning), meaning
      if flag.findtext('type') == 'int':  # Refuses what makes no sense.
        assert flag.findtext('lower_bound'), flag.findtext('name')


# Runs a program, and says so when it begins to import JAX.
FIRST = """
import runpy, sys
class Finder:
  def find_spec(self, name, *_):
    if name == 'jax':
      print('it imports JAX', file=sys.stderr, flush=True)
sys.meta_path.insert(0, Finder())
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
"""


@pytest.mark.parametrize('module', sorted({*BINARIES} - {'tools'}))
def test_programs_say_what_they_do_before_they_load(module, world, tmp_path):
  arguments = {
    'tools.benchmark.coordinator': ['--shards=2'],
    'tools.compare_runs': ['somewhere'],
    'tools.export': ['--format=rlds'],
    'tools.lineage': ['somewhere'],
    'tools.record': ['--policy=brownian', '--output=log.npz'],
    'tools.report': ['somewhere'],
    'tools.select_episodes': ['--output=log.npz'],
    'trainers.train_vae': [
      '--workdir=run',
      f'--data_dir={world.data_dir}',
      '--config.dataset=carracing_rollouts/tiny',
    ],
    'trainers.train_mdn_rnn': [
      '--workdir=run',
      f'--data_dir={world.data_dir}',
      '--config.dataset=carracing_latents/tiny',
    ],
    'trainers.train_controller': ['--workdir=run'],
  }.get(module, [])
  with subprocess.Popen(
    [sys.executable, '-c', FIRST, module, *arguments],
    cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': f'{PROJECT}:{PROJECT / "datasets"}'},
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stderr
    line = process.stderr.readline()
    process.kill()
  said = {
    'trainers.train_vae': (
      r'Training V on carracing_rollouts/tiny:\S+@\w{12} .*'
    ),
    'trainers.train_mdn_rnn': (
      r'Training M on carracing_latents/tiny:\S+@\w{12} .*'
    ),
  }.get(module, '[A-Z][a-z]+ing .*')
  assert re.fullmatch(rf'\d\d:\d\d:\d\d {said}\.\n', line), line


def test_programs_say_when_they_compile(world, command, tmp_path):
  done = command(
    'tools.dream',
    f'--vae={world.vae}',
    f'--mdn_rnn={world.mdn_rnn}',
    f'--data_dir={world.data_dir}',
    '--dataset=carracing_rollouts/tiny',
    '--seen_steps=3',
    '--dream_steps=2',
    f'--output_dir={tmp_path}',
  )
  assert done.status == 0, done.stderr
  first, second, *_ = done.stderr.splitlines()
  assert 'Dreaming with' in first and 'Compiling; programs in' in second


def test_reader_of_the_help_may_leave():
  help_and_leave = f'{sys.executable} -m tools --help | true; exit $PIPESTATUS'
  done = subprocess.run(
    ['bash', '-c', help_and_leave], cwd=PROJECT, capture_output=True
  )
  assert done.returncode in (0, 141)
  assert not done.stderr


def test_list_of_programs_has_a_line_for_each(command):
  done = command('tools')
  assert done.status == 0, done.stderr
  line = r'^  (tfds build \S+|\S+) {2,}[A-Z].*\.$'
  lines = re.findall(line, done.stdout, re.MULTILINE)
  programs = {*BINARIES, *(f'tfds build datasets/{x}' for x in DATASETS)}
  assert sorted(lines) == sorted(programs - {'tools'})


def test_make_lists_its_goals():
  done = subprocess.run(
    ['make', '--silent'], cwd=PROJECT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  goals = re.search(
    r'^\.PHONY: (.*)', (PROJECT / 'Makefile').read_text(), re.MULTILINE
  )
  assert goals
  listed = re.findall(r'^  make (\w+) +[A-Z].*\.$', done.stdout, re.MULTILINE)
  assert sorted(listed) == sorted(goals[1].split())
