"""Errors whose message is meant to be read alone."""

import sys
from types import TracebackType


class DatasetError(ValueError):
  """A dataset is missing, unreadable or wrongly configured.

  The message says what is wrong and which command mends it.
  """


def show_without_traceback(error_class: type[Exception]) -> None:
  """Makes uncaught errors of this class print as one line.

  `tfds build` prints the whole stack of TFDS for any error of a builder. Other
  errors keep their traceback, notebooks and debuggers keep their own handling.
  """
  previous = sys.excepthook

  def hook(
    kind: type[BaseException],
    error: BaseException,
    traceback: TracebackType | None,
  ) -> None:
    if isinstance(error, error_class):
      print(f'Error: {error}', file=sys.stderr)
    else:
      previous(kind, error, traceback)

  sys.excepthook = hook
