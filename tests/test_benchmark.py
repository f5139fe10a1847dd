import functools

import pytest
from tools.benchmarks import contest


def prepare(amount):
  return lambda: amount


def prepare_missing():
  raise ImportError('not installed')


def prepare_broken():
  raise ValueError('broken')


def stage(*prepares):
  contenders = [contest.Contender(str(i), p) for i, p in enumerate(prepares)]
  return contest.Stage('stage', 'Stage', 'things', contenders)


def test_contenders_take_turns_and_missing_ones_have_no_rates():
  rates = contest.run(
    stage(
      functools.partial(prepare, 1.0),
      prepare_missing,
      functools.partial(prepare, 5.0),
    ),
    rounds=3,
    seconds=0.0,
  )
  assert [len(rates[name]) for name in '012'] == [3, 0, 3]
  assert all(rate > 0 for rate in rates['0'] + rates['2'])


def test_contender_that_fails_is_named():
  with pytest.raises(RuntimeError, match="contender '1' failed"):
    contest.run(stage(functools.partial(prepare, 1.0), prepare_broken), 1, 0.0)


def test_ratio_is_that_of_the_same_rounds():
  compared = contest.compare([2.0, 30.0, 8.0], [1.0, 10.0, 8.0])
  assert compared == (2.0, 1.0, 3.0)
