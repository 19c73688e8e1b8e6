"""Raw tables: where they are, how columns are called, how SQL reads them.

A table becomes a SQL SELECT of one text column per role ('user', 'item', ...),
NULL where the table has no such column, and `text`, the raw row, where the row
cannot be read at all, else NULL.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import itertools
import json
import os
from pathlib import Path
import re

import duckdb

from genrec_jax.core.duckdb_file import quoted
from genrec_jax.core.errors import UserError
from genrec_jax.ingest.readers import delimited, opening

# How names of columns end up in one form: 'userID', 'user_id' and 'User Id'.
_FOLD = str.maketrans("", "", "_- .")
_DELIMITERS = (",", "\t", ";", "|")
_PARQUET = (".parquet", ".parq", ".pq")
_SUFFIXES = {
  ".csv": "csv",
  ".tsv": "csv",
  ".txt": "csv",
  ".dat": "dat",
  ".jsonl": "jsonl",
  ".ndjson": "jsonl",
  ".json": "jsonl",
} | dict.fromkeys(_PARQUET, "parquet")
EXPECTED = "expected .csv, .tsv, .dat, .jsonl, also .gz, or .parquet"
# Folders of tables of which some Parquet files are no longer part.
_LAKES = {"_delta_log": "Delta", "metadata": "Iceberg", ".hoodie": "Hudi"}
_IDS = ("user", "item")
_EXACT = 2**53  # above, a float of 64 bits is not every integer


@dataclasses.dataclass(frozen=True)
class Table:
  """A raw file with a name for each of its columns that is used."""

  path: Path  # a folder, if the table is in parts
  form: str  # csv, dat, jsonl, parquet
  columns: Sequence[str]  # all names, in their order; of jsonl those seen
  roles: Mapping[str, str]  # {'user': name of the column, ...}
  delimiter: str = ","
  parts: tuple[Path, ...] = ()  # in the folder

  @property
  def files(self) -> tuple[Path, ...]:
    """Returns the files that are read."""
    return self.parts or (self.path,)

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
  form, delimiter, parts = form_of(path), ",", ()
  if not form:
    raise UserError(_not_a_table(path))
  try:
    if columns is not None:
      delimiter = "::"
    elif form == "csv":
      columns, delimiter = _header(path)
    elif form == "jsonl":
      columns = _keys(path)
    elif form == "parquet":
      parts = _parts(path) if path.is_dir() else ()
      columns = list(_types(Table(path, form, (), {}, parts=parts)))
    else:
      raise UserError(f"{path} has no names of columns: {EXPECTED}")
  except (*opening.ERRORS, duckdb.Error) as error:
    raise UserError(f"cannot read {path}: {error}; {EXPECTED}") from None
  roles = _roles(path, columns, names)
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
  return Table(path, form, tuple(columns), roles, delimiter, parts)


def form_of(path: Path) -> str:
  """Returns the form that a file's name tells, '' for none.

  A folder is a Parquet table if there are Parquet files in it.
  """
  if path.is_dir():
    return "parquet" if _found_parts(path) else ""
  name = path.name.lower()
  for ending in opening.ENDINGS:
    name = name.removesuffix(ending)
  return _SUFFIXES.get(os.path.splitext(name)[1], "")


def packed(path: Path) -> Path | None:
  """Returns the file of a name, or of that name and a packing's ending."""
  for ending in ("", *opening.ENDINGS):
    found = path.with_name(path.name + ending)
    if found.exists():
      return found
  return None


@contextlib.contextmanager
def reading(table: Table) -> Iterator[None]:
  """Lets errors of reading a table name its file.

  Raises:
    UserError: instead of what `opening.ERRORS` and DuckDB raise.
  """
  try:
    yield
  except duckdb.OutOfMemoryException:
    raise
  except EOFError:
    raise UserError(
      f"{table.path} ends too early: it was cut off. Fetch it again."
    ) from None
  except (*opening.ERRORS, duckdb.Error) as error:
    text = str(error)
    if isinstance(error, OSError) and error.filename not in (
      None,
      *map(str, table.files),
    ):
      raise  # of the work folder
    if "No space left" in text:
      raise
    end = "Unexpected end" in text or "ended before" in text
    reason = "it was cut off" if end else text.splitlines()[0]
    raise UserError(
      f"cannot read {table.path}: {reason}. Fetch it again, or repair it."
    ) from None


def lines_of(table: Table, rows: Collection[int]) -> dict[int, tuple[int, str]]:
  """Returns the line number, from 1 on, and the text of some rows of a table.

  Args:
    table: of text, not Parquet.
    rows: positions among the rows that `select` gives.
  """
  found, wanted = {}, set(rows)
  with opening.lines(table.path) as file:
    if table.form == "jsonl":
      lines = (
        (number, line.decode(errors="replace").strip())
        for number, line in enumerate(file, 1)
        if line.strip()
      )
    else:
      lines = (
        (number, text)
        for _, text, number in delimited.rows(
          delimited.decoded(file), table.delimiter, table.form == "csv"
        )
      )
      if table.form == "csv":
        next(lines, None)  # the header
    for row, line in enumerate(lines):
      if row in wanted:
        found[row] = line
        if len(found) == len(wanted):
          break
  return found


def select(table: Table, roles: Sequence[str], work: Path) -> str:
  """Returns SQL that reads a table; see the module's docstring.

  Args:
    table: to read.
    roles: of the columns that are wanted.
    work: a folder for a rewritten copy, if one is needed.
  """
  if table.form == "jsonl":
    return _select_jsonl(table, roles, work)
  if table.form == "parquet":
    return _select_parquet(table, roles)
  return _select_delimited(table, roles, work)


def literal(path: str | os.PathLike) -> str:
  """Returns the pattern that DuckDB finds this one file by.

  DuckDB takes every path that it reads for a pattern, in which '[', '?' and '*'
  mean other names.

  Raises:
    UserError: no pattern means this path.
  """
  text = os.path.abspath(path)
  pattern = re.sub(r"([*?\[])", r"[\1]", text)
  if pattern != text and "\\" in text:
    raise UserError(
      f"{text!r} cannot be opened: DuckDB has no way to write a '\\' next to "
      "one of '*?['. Rename the folder or the file."
    )
  return pattern


def fold(name: str) -> str:
  """Returns what makes two columns' names the same."""
  return name.strip().lower().translate(_FOLD)


def _select_delimited(table, roles, work):
  count, path, delimiter = len(table.columns), table.path, table.delimiter
  skip = int(table.form == "csv")
  packing = opening.form(path).packing
  if not delimited.is_plain(path, table.form == "csv", bool(skip)):
    path, packing = work / f"{path.name}.rows", ""
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
    f" FROM read_csv({quoted(literal(path))}, auto_detect=false, header=false,"
    f" skip={skip}, columns={{{types}}}, delim={quoted(delimiter)}, quote='',"
    " escape='', nullstr='\x02', null_padding=true, strict_mode=false,"
    f" compression='{packing or 'none'}')"
  )


def _select_jsonl(table, roles, work):
  path = table.path
  packing, encoding = opening.form(path)
  if packing == "gzip" and encoding.startswith("utf-8"):
    opening.check_sums(path)
  elif packing or not encoding.startswith("utf-8"):
    path = opening.copy(path, work / f"{path.name}.lines")
    packing = ""
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
    f" read_ndjson_objects({quoted(literal(path))}, ignore_errors=true,"
    f" compression='{packing or 'none'}'))"
  )


def _select_parquet(table, roles):
  source, types = _parquet(table), _types(table)
  columns = []
  for role in roles:
    text = "CAST(NULL AS VARCHAR)"
    if table.has(role):
      name = table.roles[role]
      column = _name(name)
      text = f"trim(CAST({column} AS VARCHAR))"
      if role in _IDS and types[name] in ("FLOAT", "DOUBLE"):
        _check_exact(table, column, types[name])
        # As pandas writes integers where one is missing.
        text = f"""CASE WHEN isnan({column}) THEN NULL
          WHEN isfinite({column}) AND {column} = floor({column})
          THEN CAST(CAST({column} AS HUGEINT) AS VARCHAR) ELSE {text} END"""
      elif role in _IDS and types[name].startswith("DECIMAL"):
        text = rf"regexp_replace({text}, '\.0+$', '')"
    columns.append(f"{text} AS {_name(role)}")
  return (
    f"SELECT {', '.join(columns)}, CAST(NULL AS VARCHAR) AS text FROM {source}"
  )


def _check_exact(table, column, type):
  """Raises a UserError if floats are too large to tell integers apart."""
  limit = _EXACT if type == "DOUBLE" else 2**24
  with duckdb.connect() as connection:
    found = connection.execute(
      f"SELECT {column} FROM {_parquet(table)} WHERE isfinite({column}) "
      f"AND abs({column}) >= {limit} LIMIT 1"
    ).fetchall()
  if found:
    raise UserError(
      f"{table.path} has ids that are floats in {column}, such as "
      f"{found[0][0]:.0f}: floats of that size have lost digits. Write the "
      "column as integers or as text."
    )


def _parquet(table):
  """Returns the SQL of a Parquet table, binary columns as text."""
  files = ", ".join(quoted(literal(path)) for path in table.files)
  below = (path.relative_to(table.path) for path in table.parts)
  hive = any("=" in folder for path in below for folder in path.parts[:-1])
  # Columns of folders as text: an id may begin with zeros.
  return (
    f"read_parquet([{files}], binary_as_string=true, union_by_name=true,"
    f" hive_partitioning={str(hive).lower()}, hive_types_autocast=false)"
  )


def _types(table):
  """Returns the types of a Parquet table's columns, by name."""
  with duckdb.connect() as connection:
    rows = connection.execute(f"DESCRIBE SELECT * FROM {_parquet(table)}")
    return {name: kind for name, kind, *_ in rows.fetchall()}


def _found_parts(folder):
  """Returns the Parquet files below a folder, but hidden ones."""
  return tuple(
    path
    for path in sorted(folder.rglob("*"))
    if path.suffix.lower() in _PARQUET
    and path.is_file()
    and not any(
      part.startswith(("_", ".")) for part in path.relative_to(folder).parts
    )
  )


def _parts(folder):
  """Returns the Parquet files of a folder that is a table.

  Raises:
    UserError: not all of them are part of the table, or not yet.
  """
  for name, kind in _LAKES.items():
    if (folder / name).is_dir():
      raise UserError(
        f"{folder} is a {kind} table, which keeps files that are no longer part"
        " of it: export it as Parquet."
      )
  if (folder / "_temporary").exists():
    raise UserError(
      f"{folder} is not whole: the job that writes it has not ended, or failed "
      "(it holds '_temporary'). Write it again."
    )
  return _found_parts(folder)


def _not_a_table(path):
  """Says why a path is no table."""
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
    for name in accepted:
      found = [column for column in columns if column == name] or [
        column for column in columns if fold(column) == fold(name)
      ]
      if len(found) > 1:
        raise UserError(
          f"{path} has {len(found)} columns that may be the {role}: "
          f"{', '.join(map(repr, found))}. Rename all but one."
        )
      if found:
        roles[role] = found[0]
        break
  return roles


def _size(path):
  return path.stat().st_size


def _name(role):
  return '"' + role.replace('"', '""') + '"'


def _header(path):
  """Returns the names in the first row of a CSV file, and its delimiter."""
  with opening.lines(path) as file:
    line = next(delimited.decoded(file), "")
  delimiter = max(_DELIMITERS, key=line.count)
  names, *_ = next(delimited.rows([line], delimiter), ([],))
  return [name.strip() for name in names or []], delimiter


def _keys(path, lines=1000):
  """Returns the keys of the first objects of a JSONL file.

  Raises:
    UserError: there are none.
  """
  names: dict[str, None] = {}
  first = ""
  with opening.lines(path) as file:
    for line in itertools.islice(file, lines):
      line = line.removeprefix(b"\xef\xbb\xbf").decode(errors="replace")
      first = first or line.strip()
      try:
        found = json.loads(line)
      except ValueError:
        continue
      if isinstance(found, dict):
        names |= dict.fromkeys(found)
  array = first.startswith("[") and (not names or not first.endswith("]"))
  if array or (first and not names):
    kind = "one JSON array" if array else "no JSON of that form"
    raise UserError(
      f"{path} is {kind}: expected an object a line, as in "
      f'{{"user": "1", "item": "2"}}; it begins with {first[:60]!r}.'
    )
  return list(names)
