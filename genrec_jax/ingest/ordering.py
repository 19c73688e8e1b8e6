"""The histories: events in order of time, cut into train, validation, test."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from genrec_jax.core import duckdb_file
from genrec_jax.core.duckdb_file import Connection
from genrec_jax.data import histories
from genrec_jax.ingest import work_folder


class Sizes(NamedTuple):
  """Numbers of what is kept."""

  users: int
  items: int
  events: int
  lengths: dict[int, int]  # users by length of history, shortest first


def write(db: Connection, folder: Path, future_horizon: int) -> Sizes:
  """Writes the Parquet files of a work folder from `core`.

  Makes `kept_users`, `kept_items` and `ordered_events` on the way.

  Args:
    db: the database.
    folder: to write to; see `work_folder`.
    future_horizon: see `histories.split_points`.
  """
  # Rows of what is kept; ids that sort first come first.
  for number, name in (("u", "users"), ("i", "items")):
    db.execute(f"""
      CREATE OR REPLACE TABLE kept_{name} AS
      SELECT {number}, row_number() OVER (ORDER BY {number}) - 1 AS row,
        count(*) AS length FROM core GROUP BY {number}""")
  # Equal times are common; items are numbered in the order of their ids.
  db.execute("""
    CREATE OR REPLACE TABLE ordered_events AS
    SELECT x.row AS user_row, y.row AS item_row, ms AS timestamp
    FROM core JOIN kept_users x USING (u) JOIN kept_items y USING (i)
    ORDER BY user_row, timestamp, item_row""")
  lengths = dict(  # {length: users}
    db.execute("""
      SELECT length, count(*) FROM kept_users GROUP BY length
      ORDER BY length""").fetchall()
  )
  _write_users(db, folder / work_folder.USERS, lengths, future_horizon)
  duckdb_file.copy(
    db,
    """
    SELECT id, title, path AS image FROM kept_items JOIN items USING (i)
    ORDER BY row""",
    folder / work_folder.ITEMS,
  )
  duckdb_file.copy(
    db,
    "SELECT user_row, item_row, timestamp FROM ordered_events",
    folder / work_folder.EVENTS,
  )
  return Sizes(
    users=sum(lengths.values()),
    items=duckdb_file.one(db, "SELECT count(*) FROM kept_items"),
    events=duckdb_file.one(db, "SELECT count(*) FROM ordered_events"),
    lengths=lengths,
  )


def _write_users(db, path, lengths, future_horizon):
  """Writes users with the split points of their histories."""
  length = np.asarray(list(lengths), np.int64)  # [n] different ones
  splits = histories.split_points(length, future_horizon)._asdict()
  columns = {"length": length, **splits}
  # Split points depend on the length alone, so SQL joins the few of them.
  with duckdb_file.registered(db, columns, np.int64):
    duckdb_file.copy(
      db,
      f"""
      SELECT id, CAST(sum(length) OVER (ORDER BY row) - length AS BIGINT)
        AS first, length, {", ".join(splits)}
      FROM kept_users JOIN users USING (u) JOIN given USING (length)
      ORDER BY row""",
      path,
    )
