"""What programs say about themselves: `--help`, `python -m tools`, `make`."""

import re
import subprocess
import sys
from xml.etree import ElementTree

from conftest import PROJECT
import pytest

BINARIES = {
  '.'.join(path.relative_to(PROJECT).with_suffix('').parts): path
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
  name = module.removesuffix('.__main__')
  # A sentence, examples, and then what flows in and out.
  assert re.match(rf'[A-Z].*\.\n\n  python -m {name}\b', text), text
  assert re.search(r'\n\n\S', text), text
  if re.search('flags.DEFINE|_flag', BINARIES[module].read_text()):
    assert f'{module.replace(".", "/")}.py:\n  --' in of_flags, of_flags
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
  line = r'^  (tfds build \w+|\S+) {2,}[A-Z].*\.$'
  lines = re.findall(line, done.stdout, re.MULTILINE)
  programs = {*BINARIES, *(f'tfds build {x}' for x in DATASETS)}
  assert sorted(lines) == sorted(programs - {'tools.__main__'})


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
