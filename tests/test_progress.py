import io

from absl import logging
import pytest
from trainers import progress


class Terminal(io.StringIO):
  def isatty(self):
    return True


class Clock:
  now = 100.0

  def __call__(self):
    return self.now


def test_speed_and_time_left_are_those_of_the_steps():
  clock = Clock()
  shown = progress.Progress(1500, Terminal(), clock)
  shown.start(400)
  clock.now += 30  # Of which an evaluation takes 20.
  shown.pause(20)
  shown.show_metric('loss', 43.41234)
  shown.after_step(500)
  assert shown.line() == (
    'step 500/1500 · 10 steps/s · 1 min 40 s left · loss 43.41'
  )


def test_terminal_shows_the_newest_line_in_place_and_keeps_the_last():
  clock, terminal = Clock(), Terminal()
  shown = progress.Progress(3, terminal, clock)
  shown.after_step(1)  # The step that compiles.
  shown.start(1)
  for step in 2, 3:
    clock.now += 1
    shown.after_step(step)
  shown.close()
  first, *lines = terminal.getvalue().split('\r\x1b[K')
  assert first == ''
  assert lines[0] == 'step 2/3 · 1 steps/s · 1 s left'
  assert lines[-1] == 'step 3/3 · 1 steps/s\n'


def test_log_has_a_line_every_ten_seconds_and_a_last_one(caplog):
  logging.set_verbosity(logging.INFO)
  clock = Clock()
  shown = progress.Progress(100, io.StringIO(), clock)
  shown.start(0)
  for step in range(1, 26):
    clock.now += 1
    shown.after_step(step)
  shown.close()  # Stopped early.
  steps = [message.split(' · ')[0] for message in caplog.messages]
  assert steps == ['step 10/100', 'step 20/100', 'step 25/100']


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
