"""Raw tables: where they are, how columns are called, how SQL reads them.

A table becomes a SQL SELECT of one text column per role ('user', 'item', ...),
NULL where the table has no such column, and `text`, the raw row, where the row
cannot be read at all, else NULL.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import json
import os
from pathlib import Path
import zlib

import duckdb

from genrec_jax.core.errors import UserError
from genrec_jax.data.readers import delimited

# How names of columns end up in one form: 'userID', 'user_id' and 'User Id'.
_FOLD = str.maketrans("", "", "_- .")
_DELIMITERS = (",", "\t", ";", "|")
_SUFFIXES = {
  ".csv": "csv",
  ".tsv": "csv",
  ".txt": "csv",
  ".dat": "dat",
  ".jsonl": "jsonl",
  ".ndjson": "jsonl",
  ".json": "jsonl",
  ".parquet": "parquet",
}
EXPECTED = "expected .csv, .tsv, .dat, .jsonl, also .gz, or .parquet"


@dataclasses.dataclass(frozen=True)
class Table:
  """A raw file with a name for each of its columns that is used."""

  path: Path
  form: str  # csv, dat, jsonl, parquet
  columns: Sequence[str]  # all names, in their order; of jsonl those seen
  roles: Mapping[str, str]  # {'user': name of the column, ...}
  delimiter: str = ","

  def has(self, role: str) -> bool:
    """Says whether the table has a column for a role."""
    return role in self.roles


def find(
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
  form = form_of(path)
  if not form:
    raise UserError(f"{path} is no table that can be read: {EXPECTED}")
  delimiter = "::" if form == "dat" else ","
  try:
    if columns is None and form == "csv":
      columns, delimiter = _header(path)
    elif columns is None and form == "jsonl":
      columns = _keys(path)
    elif columns is None and form == "parquet":
      query = f"DESCRIBE SELECT * FROM {quoted(path)}"
      with duckdb.connect() as connection:
        columns = [row[0] for row in connection.execute(query).fetchall()]
  except (OSError, EOFError, zlib.error, duckdb.Error) as error:
    raise UserError(f"cannot read {path}: {error}; {EXPECTED}") from None
  roles, folded = {}, {fold(name): name for name in reversed(columns or ())}
  for role, accepted in names.items():
    found = [folded[fold(name)] for name in accepted if fold(name) in folded]
    if found:
      roles[role] = found[0]
  missing = [
    f"{role} ({' or '.join(names[role])})"
    for role in required
    if role not in roles
  ]
  if missing:
    raise UserError(
      f"{path} has no column for {', '.join(missing)}; its columns are "
      f"{', '.join(map(repr, columns or ())) or 'none'}. {advice}"
    )
  return Table(path, form, tuple(columns), roles, delimiter)


def form_of(path: Path) -> str:
  """Returns the form that a file's name tells, '' for none."""
  name = path.name.lower().removesuffix(".gz")
  return _SUFFIXES.get(os.path.splitext(name)[1], "")


def select(table: Table, roles: Sequence[str], work: Path) -> str:
  """Returns SQL that reads a table; see the module's docstring.

  Args:
    table: to read.
    roles: of the columns that are wanted.
    work: a folder for a rewritten copy, if one is needed.
  """
  if table.form == "jsonl":
    return _select_jsonl(table, roles)
  if table.form == "parquet":
    columns = ", ".join(
      f"trim(CAST({_name(table.roles[role])} AS VARCHAR)) AS {_name(role)}"
      if table.has(role)
      else f"CAST(NULL AS VARCHAR) AS {_name(role)}"
      for role in roles
    )
    return (
      f"SELECT {columns}, CAST(NULL AS VARCHAR) AS text"
      f" FROM read_parquet({quoted(table.path)})"
    )
  return _select_delimited(table, roles, work)


def quoted(text: object) -> str:
  """Writes a SQL string."""
  return "'" + str(text).replace("'", "''") + "'"


def fold(name: str) -> str:
  """Returns what makes two columns' names the same."""
  return name.strip().lower().translate(_FOLD)


def _select_delimited(table, roles, work):
  count, path, delimiter = len(table.columns), table.path, table.delimiter
  skip = int(table.form == "csv")
  if not delimited.is_plain(path, quotes=table.form == "csv"):
    path = work / f"{path.name}.rows"
    delimited.rewrite(
      table.path, path, delimiter, count, table.form == "csv", bool(skip)
    )
    delimiter, skip = delimited.SEPARATOR, 0
  names = [f"c{place}" for place in range(count)]
  types = ", ".join(f"{name}: 'VARCHAR'" for name in [*names, "more"])
  # Fields that are not there are NULL, empty ones are not. A row with too many
  # has something in `more`.
  bad = "more IS NOT NULL" + (f" OR {names[-1]} IS NULL" if count > 1 else "")
  columns = ", ".join(
    f"CASE WHEN NOT ({bad}) THEN "
    f"trim({names[table.columns.index(table.roles[role])]}, ' \t\r') END"
    f" AS {_name(role)}"
    if table.has(role)
    else f"CAST(NULL AS VARCHAR) AS {_name(role)}"
    for role in roles
  )
  text = f"concat_ws({quoted(table.delimiter)}, {', '.join(names)}, more)"
  return (
    f"SELECT {columns}, CASE WHEN {bad} THEN {text} END AS text"
    f" FROM read_csv({quoted(path)}, auto_detect=false, header=false,"
    f" skip={skip}, columns={{{types}}}, delim={quoted(delimiter)}, quote='',"
    " escape='', nullstr='\x02', null_padding=true, strict_mode=false)"
  )


def _select_jsonl(table, roles):
  # JSON pointers: a key may hold quotes and dots.
  paths = ", ".join(
    quoted("/" + table.roles[role].replace("~", "~0").replace("/", "~1"))
    for role in roles
    if table.has(role)
  )
  places = itertools.count(1)
  columns = ", ".join(
    f"trim(found[{next(places)}], ' \t\r\n') AS {_name(role)}"
    if table.has(role)
    else f"CAST(NULL AS VARCHAR) AS {_name(role)}"
    for role in roles
  )
  return (
    f"SELECT {columns}, CASE WHEN json_type(json) IS DISTINCT FROM 'OBJECT'"
    " THEN coalesce(CAST(json AS VARCHAR), 'a line that is no JSON') END"
    f" AS text FROM (SELECT json, json ->> [{paths}] AS found FROM"
    f" read_ndjson_objects({quoted(table.path)}, ignore_errors=true))"
  )


def _name(role):
  return '"' + role.replace('"', '""') + '"'


def _header(path):
  """Returns the names in the first row of a CSV file, and its delimiter."""
  with delimited.open_bytes(path) as file:
    line = next(delimited.decoded(file), "")
  delimiter = max(_DELIMITERS, key=line.count)
  names, _ = next(delimited.rows([line], delimiter), ([], ""))
  return [name.strip() for name in names or []], delimiter


def _keys(path, lines=1000):
  """Returns the keys of the first objects of a JSONL file."""
  names: dict[str, None] = {}
  with delimited.open_bytes(path) as file:
    for line in itertools.islice(file, lines):
      try:
        found = json.loads(line)
      except ValueError:
        continue
      if isinstance(found, dict):
        names |= dict.fromkeys(found)
  return list(names)
