"""The DuckDB file in which an import works."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
from pathlib import Path

import duckdb
import numpy as np

from genrec_jax.data.readers.source import quoted


def connect(folder: Path, memory_gb: float, threads: int):
  """Opens a database in a work folder that stays within a memory limit."""
  return duckdb.connect(
    folder / "tables.duckdb",
    config={
      "memory_limit": f"{int(memory_gb * 1000)}MB",
      "threads": threads,
      "temp_directory": str(folder / "spill"),
      "preserve_insertion_order": True,
    },
  )


def one(db, query: str) -> int:
  """Returns the one value of a query, an integer."""
  # To the end: a result that is left unread keeps the connection busy.
  ((value,),) = db.execute(query).fetchall()
  return int(value)


def copy(db, query: str, path: Path) -> None:
  """Writes what a query gives as a Parquet file, in its order."""
  db.execute(f"COPY ({query}) TO {quoted(path)} (FORMAT parquet)")


@contextlib.contextmanager
def registered(
  db, columns: Mapping[str, Sequence], dtype=object
) -> Iterator[None]:
  """Lets queries read columns as the table `given`."""
  db.register(
    "given", {k: np.asarray(values, dtype) for k, values in columns.items()}
  )
  try:
    yield
  finally:
    db.unregister("given")
