"""Errors whose message is meant to be read alone."""


class UserError(ValueError):
  """Something that the user can mend.

  The message says, in one line, what is wrong and which command mends it.
  """


class DatasetError(UserError):
  """A dataset is missing, unreadable or wrongly configured."""


class PlaceError(UserError):
  """A file or folder cannot be written, or another process is writing it."""


class DocumentError(UserError):
  """The content of a JSON document is not what its schema says."""


class UnreadableError(UserError):
  """The operating system cannot read a file, which may be intact."""
