"""Parquet tables, of one file or a folder of parts as Spark and Dask write."""

from collections.abc import Sequence
from pathlib import Path

import duckdb

from genrec_jax.core.duckdb_file import identifier, pattern, quoted
from genrec_jax.core.errors import UserError

SUFFIXES = (".parquet", ".parq", ".pq")
# Folders of tables of which some Parquet files are no longer part.
_LAKES = {"_delta_log": "Delta", "metadata": "Iceberg", ".hoodie": "Hudi"}
# From here on, a float does not stand for every integer.
_INEXACT = {"FLOAT": 2**24, "DOUBLE": 2**53}


def files_below(folder: Path) -> tuple[Path, ...]:
  """Returns the Parquet files below a folder, except hidden ones."""
  return tuple(
    path
    for path in sorted(folder.rglob("*"))
    if path.suffix.lower() in SUFFIXES
    and path.is_file()
    and not any(
      part.startswith(("_", ".")) for part in path.relative_to(folder).parts
    )
  )


def parts(folder: Path) -> tuple[Path, ...]:
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
  if (folder / "_temporary").exists():  # Spark's, of a job that is not done
    raise UserError(
      f"{folder} is not whole: the job that writes it has not ended, or failed "
      "(it holds '_temporary'). Write it again."
    )
  return files_below(folder)


def source(path: Path, parts: Sequence[Path] = ()) -> str:
  """Returns the SQL of a table, with binary columns as text.

  Args:
    path: the file, or the folder of `parts`.
    parts: see `parts`.
  """
  files = ", ".join(quoted(pattern(file)) for file in parts or (path,))
  # 'year=2020' as the name of a folder is a column and its value.
  folders = (part.relative_to(path).parts[:-1] for part in parts)
  hive = any("=" in name for names in folders for name in names)
  # Columns in names of folders are text: an id may begin with zeros.
  return (
    f"read_parquet([{files}], binary_as_string=true, union_by_name=true,"
    f" hive_partitioning={str(hive).lower()}, hive_types_autocast=false)"
  )


def column_types(path: Path, parts: Sequence[Path] = ()) -> dict[str, str]:
  """Returns the SQL types of a table's columns, by name; see `source`."""
  with duckdb.connect() as connection:
    rows = connection.execute(f"DESCRIBE SELECT * FROM {source(path, parts)}")
    return {name: kind for name, kind, *_ in rows.fetchall()}


def id_text(
  path: Path, parts: Sequence[Path], column: str, column_type: str
) -> str:
  """Returns SQL of a column of ids as text.

  Whole floats become integers: pandas writes integers so if one is missing.

  Raises:
    UserError: the ids are floats that have lost digits.
  """
  name = identifier(column)
  text = f"trim(CAST({name} AS VARCHAR))"
  if column_type.startswith("DECIMAL"):  # exact, but with trailing zeros
    return rf"regexp_replace({text}, '\.0+$', '')"
  if column_type not in _INEXACT:
    return text
  # 9007199254740993 as a float is ...992, which may be the id of another user.
  with duckdb.connect() as connection:
    inexact = connection.execute(
      f"SELECT {name} FROM {source(path, parts)} WHERE isfinite({name}) "
      f"AND abs({name}) >= {_INEXACT[column_type]} LIMIT 1"
    ).fetchall()
  if inexact:
    raise UserError(
      f"{path} has ids that are floats in {name}, such as "
      f"{inexact[0][0]:.0f}: floats of that size have lost digits. Write the "
      "column as integers or as text."
    )
  return f"""CASE WHEN isnan({name}) THEN NULL
    WHEN isfinite({name}) AND {name} = floor({name})
    THEN CAST(CAST({name} AS HUGEINT) AS VARCHAR) ELSE {text} END"""
