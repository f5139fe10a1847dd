import contextlib
import io
import os
import pty
import re
import subprocess
import sys

from carracing_data import progress
import pytest


class Terminal(io.StringIO):
  def isatty(self):
    return True


class Clock:
  now = 100.0

  def __call__(self):
    return self.now


def test_speed_and_time_left_are_those_of_the_steps():
  clock = Clock()
  shown = progress.Progress('step', 'steps', 1500, Terminal(), clock)
  shown.start(400)
  clock.now += 30  # Of which an evaluation takes 20.
  shown.pause(20)
  shown.show_metric('loss', 43.41234)
  shown.update(500)
  assert shown.line() == (
    'step 500/1500 · 10 steps/s · 1 min 40 s left · loss 43.41'
  )


def test_terminal_shows_the_newest_line_in_place_and_keeps_the_last():
  clock, terminal = Clock(), Terminal()
  shown = progress.Progress('step', 'steps', 3, terminal, clock)
  shown.update(1)  # The step that compiles.
  shown.start(1)
  for step in 2, 3:
    clock.now += 1
    shown.update(step)
  shown.close()
  first, *lines = terminal.getvalue().split('\r\x1b[K')
  assert first == ''
  assert lines[0] == 'step 2/3 · 1 steps/s · 1 s left'
  assert lines[-1] == 'step 3/3 · 1 steps/s\n'


def lines_of_a_log(total, done):
  """Returns what a log shows of so many shards, one in a second."""
  clock, log = Clock(), io.StringIO()
  with progress.Progress('shard', 'shards', total, log, clock) as shown:
    shown.start()
    for i in range(1, done + 1):
      clock.now += 1
      shown.update(i)
  return log.getvalue().splitlines()


def test_log_has_a_line_every_ten_seconds_and_a_last_one():
  lines = lines_of_a_log(100, 25)
  assert [re.sub(r'^\d\d:\d\d:\d\d ', '', line) for line in lines] == [
    'shard 10/100 · 1 shards/s · 1 min 30 s left',
    'shard 20/100 · 1 shards/s · 1 min 20 s left',
    'shard 25/100 · 1 shards/s · 1 min 15 s left',  # Stopped early.
  ]
  assert all(line.isprintable() for line in lines)


def test_log_shows_the_end_once():
  [line] = lines_of_a_log(10, 10)
  assert line.endswith(' shard 10/10 · 1 shards/s')


def test_dumb_terminal_gets_the_lines_of_a_log(monkeypatch):
  monkeypatch.setenv('TERM', 'dumb')
  terminal = Terminal()
  with progress.Progress('step', 'steps', 3, terminal, Clock()) as shown:
    shown.start()
  assert re.fullmatch(r'\d\d:\d\d:\d\d step 0/3\n', terminal.getvalue())


def test_work_of_other_processes_is_counted_until_its_end(capsys):
  finished = []
  with progress.watching('driving', 'tracks', 3, lambda: len(finished)):
    finished.append('by another process')
  assert ' driving 1/3 · ' in capsys.readouterr().err


def test_items_come_in_order_and_are_counted(capsys):
  assert list(progress.each('abc', 'reading', 'letters')) == ['a', 'b', 'c']
  assert ' reading 3/3 · ' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [
    (0.2, '0 s'),
    (59.4, '59 s'),
    (59.6, '1 min 0 s'),
    (112, '1 min 52 s'),
    (3600, '1 h 0 min'),
    (11_130, '3 h 5 min'),
  ],
)
def test_duration(seconds, text):
  assert progress.duration(seconds) == text


@pytest.mark.parametrize(
  'line',
  ['tools.verify', 'tools.export --format=rlds --output_dir={tmp}'],
)
def test_log_file_of_a_program_has_no_control_characters(
  line, data_dir, command, tmp_path
):
  module, *flags = line.format(tmp=tmp_path).split()
  name = '--dataset=carracing_rollouts/tiny'
  done = command(module, name, f'--data_dir={data_dir}', *flags)
  assert done.status == 0, done.stderr
  assert re.search(r'^\d\d:\d\d:\d\d \w+ \d/\d · ', done.stderr, re.MULTILINE)
  said = done.stdout + done.stderr
  assert all(line.isprintable() for line in said.splitlines()), repr(said)


def test_no_color_on_a_terminal(data_dir, tmp_path):
  ours, theirs = pty.openpty()
  name = '--dataset=carracing_rollouts/tiny'
  with os.fdopen(ours, 'rb', buffering=0) as terminal:
    process = subprocess.Popen(
      [sys.executable, '-m', 'tools.export', '--format=rlds', name]
      + [f'--data_dir={data_dir}', f'--output_dir={tmp_path}'],
      stdout=theirs,
      stderr=theirs,
      env={**os.environ, 'NO_COLOR': '1', 'TERM': 'xterm'},
    )
    os.close(theirs)
    said = b''
    with contextlib.suppress(OSError):  # The end, on Linux.
      while part := terminal.read(1000):
        said += part
  assert process.wait() == 0, said
  assert b'\r\x1b[K' in said  # The progress, in place.
  assert not re.search(rb'\x1b\[[\d;]*m', said), said
