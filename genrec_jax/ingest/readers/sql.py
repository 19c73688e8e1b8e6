"""SQL that reads a raw table: one text column per role, and the bad rows.

A column is NULL where the table has none for its role. One more, `text`, is the
raw row where the row cannot be read at all, else NULL.
"""

from collections.abc import Collection, Sequence
import itertools
from pathlib import Path

from genrec_jax.core.duckdb_file import identifier, pattern, quoted
from genrec_jax.ingest.readers import delimited, parquet, text_file
from genrec_jax.ingest.readers.table import Table

_IDS = ("user", "item")  # roles


def select(table: Table, roles: Sequence[str], work: Path) -> str:
  """Returns SQL that reads a table; see the module's docstring.

  Args:
    table: to read.
    roles: of the columns that are wanted.
    work: a folder for a rewritten copy, if one is needed.
  """
  if table.format == "jsonl":
    return _select_jsonl(table, roles, work)
  if table.format == "parquet":
    return _select_parquet(table, roles)
  return _select_delimited(table, roles, work)


def lines_of(table: Table, rows: Collection[int]) -> dict[int, tuple[int, str]]:
  """Returns the line number, from 1 on, and the text of some rows of a table.

  Args:
    table: of text, not Parquet.
    rows: positions among the rows that `select` gives.
  """
  lines, wanted = {}, set(rows)  # read from the start: rows vary in length
  with text_file.lines(table.path) as file:
    for row, line in enumerate(_numbered(table, file)):
      if row in wanted:
        lines[row] = line
        if len(lines) == len(wanted):
          break
  return lines


def _numbered(table, file):
  """Yields the number of its line and the text of every row."""
  if table.format == "jsonl":
    for number, line in enumerate(file, 1):
      if line.strip():
        yield number, line.decode(errors="replace").strip()
    return
  has_header = table.format == "csv"
  rows = delimited.rows(delimited.decoded(file), table.delimiter, has_header)
  for _, text, number in itertools.islice(rows, int(has_header), None):
    yield number, text


def _select_delimited(table, roles, work):
  count, path, delimiter = len(table.columns), table.path, table.delimiter
  is_csv = table.format == "csv"
  skip, compression = int(is_csv), text_file.detect(path).compression
  if not delimited.is_plain(path, quotes=is_csv, header=is_csv):
    # DuckDB reads the copy, without header, instead.
    path, compression = work / f"{path.name}.rows", ""
    delimited.rewrite(
      table.path, path, delimiter, count, quotes=is_csv, header=is_csv
    )
    delimiter, skip = delimited.SEPARATOR, 0
  names = [f"c{place}" for place in range(count)]
  types = ", ".join(f"{name}: 'VARCHAR'" for name in [*names, "more"])
  # Fields that are not there are NULL, empty ones are not. A row with too many
  # has something in `more`.
  bad = "more IS NOT NULL" + (f" OR {names[-1]} IS NULL" if count > 1 else "")

  def column(role):
    if not table.has(role):
      return "CAST(NULL AS VARCHAR)"
    name = names[table.columns.index(table.roles[role])]
    return f"CASE WHEN NOT ({bad}) THEN trim({name}, ' \t\r') END"

  columns = ", ".join(f"{column(role)} AS {identifier(role)}" for role in roles)
  text = f"concat_ws({quoted(table.delimiter)}, {', '.join(names)}, more)"
  # No quotes and no escapes: what needs them has been rewritten. '\x02' stands
  # in no file that is read, so an empty field is never NULL.
  return (
    f"SELECT {columns}, CASE WHEN {bad} THEN {text} END AS text"
    f" FROM read_csv({quoted(pattern(path))}, auto_detect=false, header=false,"
    f" skip={skip}, columns={{{types}}}, delim={quoted(delimiter)}, quote='',"
    " escape='', nullstr='\x02', null_padding=true, strict_mode=false,"
    f" compression='{compression or 'none'}')"
  )


def _select_jsonl(table, roles, work):
  path = table.path
  compression, encoding = text_file.detect(path)
  # DuckDB reads plain files and gzip, in UTF-8.
  if compression == "gzip" and encoding.startswith("utf-8"):
    text_file.verify_checksums(path)
  elif compression or not encoding.startswith("utf-8"):
    path = text_file.write_plain(path, work / f"{path.name}.lines")
    compression = ""
  present = [role for role in roles if table.has(role)]
  # JSON pointers: a key may hold quotes and dots.
  pointers = ", ".join(
    quoted("/" + table.roles[role].replace("~", "~0").replace("/", "~1"))
    for role in present
  )

  def column(role):
    if role not in present:
      return "CAST(NULL AS VARCHAR)"
    return f"trim(fields[{present.index(role) + 1}], ' \t\r\n')"

  columns = ", ".join(f"{column(role)} AS {identifier(role)}" for role in roles)
  return (
    f"SELECT {columns}, CASE WHEN json_type(json) IS DISTINCT FROM 'OBJECT'"
    " THEN coalesce(CAST(json AS VARCHAR), 'a line that is no JSON') END"
    f" AS text FROM (SELECT json, json ->> [{pointers}] AS fields FROM"
    f" read_ndjson_objects({quoted(pattern(path))}, ignore_errors=true,"
    f" compression='{compression or 'none'}'))"
  )


def _select_parquet(table, roles):
  # No row of Parquet is malformed: `text` is always NULL.
  types = parquet.column_types(table.path, table.parts)

  def column(role):
    if not table.has(role):
      return "CAST(NULL AS VARCHAR)"
    name = table.roles[role]
    if role in _IDS:
      return parquet.id_text(table.path, table.parts, name, types[name])
    return f"trim(CAST({identifier(name)} AS VARCHAR))"

  columns = ", ".join(f"{column(role)} AS {identifier(role)}" for role in roles)
  return (
    f"SELECT {columns}, CAST(NULL AS VARCHAR) AS text"
    f" FROM {parquet.source(table.path, table.parts)}"
  )
