"""The DuckDB file in which an import works."""

from collections.abc import Iterator, Mapping
import contextlib
import os
from pathlib import Path
import re
import tempfile
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from genrec_jax.core.errors import UserError

Connection = duckdb.DuckDBPyConnection


@contextlib.contextmanager
def connect(
  folder: Path, memory_gb: float, threads: int
) -> Iterator[Connection]:
  """Opens a database in a work folder that stays within a memory limit."""
  with (
    _plain(folder) as plain,
    duckdb.connect(
      plain / "tables.duckdb",
      config={
        # Of tables; what Python reads from them comes on top.
        "memory_limit": f"{int(memory_gb * 1000)}MB",
        "threads": threads,
        "temp_directory": str(plain / "spill"),
        # Rows of a raw file keep their order, by which the first one counts.
        "preserve_insertion_order": True,
      },
    ) as db,
  ):
    # A time without a zone is UTC, wherever the machine stands.
    db.execute("SET TimeZone = 'UTC'")
    yield db


def one(db: Connection, query: str) -> int:
  """Returns the one value of a query, an integer."""
  # To the end: a result that is left unread keeps the connection busy.
  ((value,),) = db.execute(query).fetchall()
  return int(value)


@contextlib.contextmanager
def _plain(folder: str | os.PathLike[str]) -> Iterator[Path]:
  """Yields a folder, this or a temporary one, whose path DuckDB can take.

  DuckDB ends the path of a database at '?' and takes '\\' for '/'.
  """
  if {"?", "\\"} & set(os.path.abspath(folder)):
    with tempfile.TemporaryDirectory() as temporary:
      yield Path(temporary)
  else:
    yield Path(folder)


def copy(db: Connection, query: str, path: Path) -> None:
  """Writes what a query gives as a Parquet file, in its order."""
  db.execute(f"COPY ({query}) TO {quoted(path)} (FORMAT parquet)")


@contextlib.contextmanager
def registered(
  db: Connection, columns: Mapping[str, npt.ArrayLike], dtype: Any = object
) -> Iterator[None]:
  """Lets queries read columns as the table `given`."""
  # As objects: NumPy would make strings of one length, the longest, of them.
  db.register(
    "given", {k: np.asarray(values, dtype) for k, values in columns.items()}
  )
  try:
    yield
  finally:
    db.unregister("given")


def quoted(text: object) -> str:
  """Returns a SQL string."""
  return "'" + str(text).replace("'", "''") + "'"


def identifier(name: str) -> str:
  """Returns the SQL name of a column, whatever letters it has."""
  return '"' + name.replace('"', '""') + '"'


def pattern(path: str | os.PathLike) -> str:
  """Returns the pattern that matches this one file.

  DuckDB takes every path that it reads for a pattern, in which '[', '?' and '*'
  match other names.

  Raises:
    UserError: no pattern matches this path.
  """
  text = os.path.abspath(path)
  # A class of one letter, '[*]', is that letter.
  escaped = re.sub(r"([*?\[])", r"[\1]", text)
  if escaped != text and "\\" in text:
    raise UserError(
      f"{text!r} cannot be opened: DuckDB has no way to write a '\\' next to "
      "one of '*?['. Rename the folder or the file."
    )
  return escaped


def parquet(path: str | os.PathLike) -> str:
  """Returns the SQL of the table in one Parquet file.

  Folders called 'key=value' above it add no column, as DuckDB would have it.
  """
  return f"read_parquet({quoted(pattern(path))}, hive_partitioning=false)"
