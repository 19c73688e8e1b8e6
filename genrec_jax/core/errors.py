"""The exception for errors that a user can fix, and the form of messages."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
  """An error that the user can fix; its message ends the program.

  It says what is wrong, what was expected, and what to do.
  """


def listed(heading: str, problems: list[str], limit: int = 20) -> str:
  """Returns a heading and its problems, one per line, the first `limit`."""
  # A checkpoint of another model differs in thousands of parameters.
  lines = [f"  {problem}" for problem in problems[:limit]]
  if len(problems) > limit:
    lines.append(f"  ... and {len(problems) - limit} more")
  return "\n".join([heading, *lines])


def one_line(error: BaseException, limit: int = 300) -> str:
  """Returns the first line of an error's text; its kind if it has none."""
  # XLA's messages run over pages; what is wrong is in their first line.
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0][:limit]


def lookup(what: str, table: Mapping[str, T], name: str) -> T:
  """Returns what a table holds under a name that a user chose.

  Raises:
    UserError: lists the names that there are.
  """
  if name not in table:
    raise UserError(f"{what}={name!r}: expected one of {', '.join(table)}")
  return table[name]
