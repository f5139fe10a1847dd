"""Formats tables in Markdown."""

from collections.abc import Sequence
from typing import Any

from carracing_data import command_line


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  """Returns a Markdown table with a header row; each row is a line."""
  lines = [head, ['---'] * len(head), *rows]
  return '\n'.join(
    command_line.printable(f'| {" | ".join(map(_cell, line))} |')
    for line in lines
  )


def _cell(value: Any) -> str:
  return str(value).replace('|', r'\|')
