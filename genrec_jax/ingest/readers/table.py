"""Raw tables: a file, its format and the column of each role.

A role is what a column is for: 'user', 'item', 'timestamp', 'rating', 'title'
or 'image'. Data sets call the same thing `userId`, `user_id` or `reviewer`.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import itertools
import json
import os
from pathlib import Path

import duckdb

from genrec_jax.core.errors import UserError
from genrec_jax.ingest.readers import delimited, parquet, text_file

# Ignored in names of columns: 'userID', 'user_id' and 'User Id' are the same.
_IGNORED = str.maketrans("", "", "_- .")
_DELIMITERS = (",", "\t", ";", "|")
_FORMATS = {
  ".csv": "csv",
  ".tsv": "csv",
  ".txt": "csv",
  ".dat": "dat",
  ".jsonl": "jsonl",
  ".ndjson": "jsonl",
  ".json": "jsonl",
} | dict.fromkeys(parquet.SUFFIXES, "parquet")
EXPECTED = "expected .csv, .tsv, .dat, .jsonl, also .gz, or .parquet"


@dataclasses.dataclass(frozen=True)
class Table:
  """A raw file and its columns by role."""

  path: Path  # a folder, if the table is in parts
  format: str  # csv, dat, jsonl, parquet
  columns: Sequence[str]  # all names, in their order; of jsonl those seen
  roles: Mapping[str, str]  # {'user': name of the column, ...}
  delimiter: str = ","
  parts: tuple[Path, ...] = ()  # in the folder

  @property
  def files(self) -> tuple[Path, ...]:
    """Returns the files that are read."""
    return self.parts or (self.path,)

  def has(self, role: str) -> bool:
    """Returns whether the table has a column for a role."""
    return role in self.roles


def open_table(
  path: Path,
  names: Mapping[str, Sequence[str]],
  *,
  required: Sequence[str],
  columns: Sequence[str] | None = None,
  advice: str = "Rename them, or use --dataset=generic and flags for names.",
) -> Table:
  """Opens a raw table and finds its columns.

  Args:
    path: of the file.
    names: by role, what its column may be called, the best first; upper case,
      spaces, '_' and '-' do not matter.
    required: roles that must have a column.
    columns: the names, of a file that has no header.
    advice: what to do if a column is missing.

  Raises:
    UserError: the file cannot be read, or lacks a required column.
  """
  format, delimiter = format_of(path), ","
  parts: tuple[Path, ...] = ()
  if not format:
    raise UserError(_not_a_table(path))
  try:
    if columns is not None:
      delimiter = "::"  # MovieLens's .dat files, the only ones without a header
    elif format == "csv":
      columns, delimiter = _header(path)
    elif format == "jsonl":
      columns = _keys(path)
    elif format == "parquet":
      parts = parquet.parts(path) if path.is_dir() else ()
      columns = list(parquet.column_types(path, parts))
    else:
      raise UserError(f"{path} has no names of columns: {EXPECTED}")
  except (*text_file.ERRORS, duckdb.Error) as error:
    raise UserError(f"cannot read {path}: {error}; {EXPECTED}") from None
  roles = _roles(path, columns, names)
  # All that are missing at once, with what is there: typos are seen then.
  missing = [
    f"{role} ({' or '.join(names[role])})"
    for role in required
    if role not in roles
  ]
  if missing and not columns and not any(map(_size, parts or (path,))):
    raise UserError(f"{path} is empty: 0 bytes")
  if missing:
    raise UserError(
      f"{path} has no column for {', '.join(missing)}; its columns are "
      f"{', '.join(map(repr, columns)) or 'none'}. {advice}"
    )
  return Table(path, format, tuple(columns), roles, delimiter, parts)


def format_of(path: Path) -> str:
  """Returns the format that a file's name stands for, '' for none.

  A folder is a Parquet table if there are Parquet files in it.
  """
  if path.is_dir():
    return "parquet" if parquet.files_below(path) else ""
  name = path.name.lower()
  for suffix in text_file.SUFFIXES:
    name = name.removesuffix(suffix)
  return _FORMATS.get(os.path.splitext(name)[1], "")


def find_file(path: Path) -> Path | None:
  """Returns `path`, or the compressed file next to it, or None."""
  for suffix in ("", *text_file.SUFFIXES):
    file = path.with_name(path.name + suffix)
    if file.exists():
      return file
  return None


def normalise_name(name: str) -> str:
  """Returns a column's name in the form that names are compared in."""
  return name.strip().lower().translate(_IGNORED)


@contextlib.contextmanager
def reading(table: Table) -> Iterator[None]:
  """Lets errors of reading a table name its file.

  Raises:
    UserError: in place of `text_file.ERRORS` and DuckDB's errors.
  """
  try:
    yield
  except duckdb.OutOfMemoryException:
    raise  # not of the table
  except EOFError:
    raise UserError(
      f"{table.path} ends too early: it was cut off. Fetch it again."
    ) from None
  except (*text_file.ERRORS, duckdb.Error) as error:
    text = str(error)
    own_files = (None, *map(str, table.files))
    if isinstance(error, OSError) and error.filename not in own_files:
      raise  # of the work folder, not of the table
    if "No space left" in text:
      raise  # for a rewritten copy
    cut = "Unexpected end" in text or "ended before" in text
    reason = "it was cut off" if cut else text.splitlines()[0]
    raise UserError(
      f"cannot read {table.path}: {reason}. Fetch it again, or repair it."
    ) from None


def _not_a_table(path):
  """Returns the error message for a path that is no table."""
  if not path.exists():
    return f"{path} is not there: {EXPECTED}"
  if path.is_dir():
    inside = sorted(file.name for file in path.iterdir())[:3]
    return (
      f"{path} is a folder ({', '.join(inside) or 'empty'}): expected a file, "
      "or a folder of Parquet files. Join parts of text into one file."
    )
  return f"{path} is no table that can be read: {EXPECTED}"


def _roles(path, columns, names):
  """Returns the column of each role that has one.

  Raises:
    UserError: two columns may be meant.
  """
  roles = {}
  for role, accepted in names.items():
    for name in accepted:  # the best first
      # A column of exactly this name wins over one that only resembles it.
      matches = [column for column in columns if column == name] or [
        column
        for column in columns
        if normalise_name(column) == normalise_name(name)
      ]
      if len(matches) > 1:
        raise UserError(
          f"{path} has {len(matches)} columns that may be the {role}: "
          f"{', '.join(map(repr, matches))}. Rename all but one."
        )
      if matches:
        roles[role] = matches[0]
        break
  return roles


def _size(path):
  return path.stat().st_size


def _header(path):
  """Returns the names in the first row of a CSV file, and its delimiter."""
  with text_file.lines(path) as file:
    line = next(delimited.decoded(file), "")
  delimiter = max(_DELIMITERS, key=line.count)  # the commonest in the header
  names, *_ = next(delimited.rows([line], delimiter), ([],))
  return [name.strip() for name in names or []], delimiter


def _keys(path, lines=1000):  # enough for keys that some objects leave out
  """Returns the keys of the first objects of a JSONL file.

  Raises:
    UserError: there are none.
  """
  names: dict[str, None] = {}  # a set that keeps the order
  first = ""
  with text_file.lines(path) as file:
    for line in itertools.islice(file, lines):
      text = line.removeprefix(b"\xef\xbb\xbf").decode(errors="replace")
      first = first or text.strip()
      try:
        value = json.loads(text)
      except ValueError:
        continue
      if isinstance(value, dict):
        names |= dict.fromkeys(value)
  array = first.startswith("[") and (not names or not first.endswith("]"))
  if array or (first and not names):
    kind = "one JSON array" if array else "no JSON of that form"
    raise UserError(
      f"{path} is {kind}: expected an object a line, as in "
      f'{{"user": "1", "item": "2"}}; it begins with {first[:60]!r}.'
    )
  return list(names)
