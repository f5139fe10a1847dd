"""Errors whose message is meant to be shown without a traceback."""


class UserError(ValueError):
  """An error that the user can fix.

  The message states, in one line, the problem and the command that fixes it.
  """


class DatasetError(UserError):
  """A dataset is missing, unreadable or misconfigured."""


class DocumentError(UserError):
  """A JSON document does not match its schema."""
