"""Counts of kept and dropped rows, titles and image files, by reason.

Every row of interactions and of titles and every file of the images folder is
in exactly one bucket, so that the counts add up to what was read.
"""

from collections.abc import Mapping
from typing import Any

from genrec_jax.core import duckdb_file
from genrec_jax.core.duckdb_file import Connection
from genrec_jax.ingest import reasons
from genrec_jax.ingest.readers.sql import lines_of
from genrec_jax.ingest.readers.table import Table

NUM_EXAMPLES = 5  # of each reason
_SHOWN = 160  # letters of a bad row


def count_drops(
  db: Connection,
  outside_core: list[str],
  tables: Mapping[str, Table] | None = None,
) -> dict[str, Any]:
  """Counts every raw row, title and file, after `ordering.write` has run.

  Args:
    db: the database.
    outside_core: examples of events that are not in the core; see `k_core`.
    tables: that 'raw_events' and 'raw_titles' were read from, to name the lines
      of malformed rows.

  Returns:
    The parts 'rows', 'titles', 'images' and 'offenders' of the report.
  """
  # What is left over after the filters gets its reason only now.
  _mark_titles(db)
  _mark_files(db)
  examples = _examples(db, outside_core, tables or {})
  # In the order in which reasons apply, as the tables of the page are.
  order = (*reasons.ROWS, *reasons.TITLES, *reasons.FILES)
  return {
    "rows": _row_counts(db),
    "titles": _counts(db, "raw_titles", reasons.TITLES),
    "images": _counts(db, "files", reasons.FILES),
    "offenders": {name: examples[name] for name in order if examples.get(name)},
  }


def _examples(db, outside_core, tables):
  """Returns the first things that were dropped, in words, by reason."""
  # The first of each reason, in the order of the raw files.
  examples = dict(
    db.execute(f"""
      SELECT reason, arg_min(text, place, {NUM_EXAMPLES}) FROM (
        SELECT reason, coalesce(text, 'user ' || "user" || ', item ' || item)
          AS text, rowid AS place
        FROM raw_events WHERE reason IS NOT NULL
        UNION ALL
        SELECT reason, coalesce(text,
          concat_ws(': ', nullif(item, ''), nullif(title, ''))), rowid
        FROM raw_titles WHERE reason IS NOT NULL
        UNION ALL
        SELECT reason, concat_ws(': ', path, details), rowid FROM files
        WHERE reason IS NOT NULL
        UNION ALL
        SELECT reason, concat_ws(': ', 'item ' || id, wanted), i FROM items
        WHERE reason IS NOT NULL
      ) GROUP BY reason""").fetchall()
  )
  examples["duplicate"] = in_words(db, "SELECT u, i FROM events WHERE n > 1")
  examples["k_core"] = outside_core
  # Read again: DuckDB keeps neither the line number nor all of a bad row.
  for name, reason in (
    ("raw_events", "malformed_row"),
    ("raw_titles", "malformed_title_row"),
  ):
    table = tables.get(name)  # none, where nobody reads the report
    if table and reason in examples:
      examples[reason] = _lines(db, name, reason, table)
  return examples


def _lines(db, name, reason, table):
  """Returns the first rows that could not be read, with their lines."""
  rows = db.execute(f"""
    SELECT rowid FROM {name} WHERE reason = '{reason}'
    ORDER BY rowid LIMIT {NUM_EXAMPLES}""").fetchall()
  lines = lines_of(table, [row for (row,) in rows])
  return [
    f"line {number} of {table.path.name}: {text[:_SHOWN]}"
    for _, (number, text) in sorted(lines.items())
  ]


def in_words(db: Connection, events: str) -> list[str]:
  """Returns the first events (u, i) of a query with their ids, as text."""
  rows = db.execute(f"""
    SELECT 'user ' || users.id || ', item ' || items.id FROM (
      SELECT u, i FROM ({events}) ORDER BY u, i LIMIT {NUM_EXAMPLES}
    ) JOIN users USING (u) JOIN items USING (i) ORDER BY u, i""")
  return [text for (text,) in rows.fetchall()]


def _row_counts(db):
  """Returns the bucket of the interactions.

  Some are dropped as raw rows, others with their item, the rest when events of
  the same user and item become one, or by the core.
  """
  of_items = dict(  # events by the reason of their item; None: it has none
    db.execute("""
      SELECT reason, count(*) FROM events JOIN items USING (i)
      GROUP BY reason""").fetchall()
  )
  kept = duckdb_file.one(db, "SELECT count(*) FROM core")  # shrunk by now
  dropped = {
    **_counts(db, "raw_events", reasons.ROWS)["dropped"],
    "duplicate": duckdb_file.one(
      db, "SELECT coalesce(sum(n - 1), 0) FROM events"
    ),
    # Events of good items that the core has lost.
    "k_core": of_items.pop(None, 0) - kept,
    **of_items,
  }
  read = duckdb_file.one(db, "SELECT count(*) FROM raw_events")
  return _bucket(read, kept, dropped, reasons.ROWS)


def _counts(db, table, meanings):
  """Returns the bucket of a table whose rows have reasons, NULL if kept."""
  counts = dict(
    db.execute(
      f"SELECT reason, count(*) FROM {table} GROUP BY reason"
    ).fetchall()
  )
  read = sum(counts.values())  # every row is in one group
  return _bucket(read, counts.pop(None, 0), counts, meanings)


def _bucket(read, kept, dropped, meanings):
  """Returns a part of the report; reasons in their order, 0 left out."""
  ordered = {reason: int(dropped.pop(reason, 0)) for reason in meanings}
  if dropped:  # a reason that the table of reasons lacks
    raise AssertionError(f"uncounted: {dropped}")
  return {
    "read": read,
    "kept": kept,
    "dropped": {reason: n for reason, n in ordered.items() if n},
  }


def _mark_titles(db):
  """Gives each title of no kept item its reason."""
  db.execute("""
    UPDATE raw_titles SET reason = 'unused_title'
    WHERE reason IS NULL AND item NOT IN (
      SELECT id FROM items JOIN kept_items USING (i))""")


def _mark_files(db):
  """Gives each file that is not kept its reason.

  A file may be used by several items, where paths are listed: it is kept if any
  of them is. `known` are names of items that a file might have been meant for.
  """
  db.execute("""
    CREATE OR REPLACE TEMP TABLE judged AS
    WITH uses AS (
      SELECT path, bool_or(kept_items.i IS NOT NULL) AS kept,
        min(why) AS why, min(details) AS details
      FROM items LEFT JOIN kept_items USING (i)
      LEFT JOIN bad_images USING (id)
      WHERE path IS NOT NULL GROUP BY path
    ), known AS (
      SELECT id AS name FROM items UNION SELECT item FROM raw_titles
      UNION SELECT image FROM raw_titles
    )
    SELECT files.path, CASE
        WHEN uses.path IS NOT NULL THEN uses.details
        WHEN owner.path IS NOT NULL THEN 'used is ' || owner.path
      END AS details, CASE
        WHEN uses.kept THEN NULL
        WHEN uses.path IS NOT NULL THEN coalesce(why, 'unused_file')
        WHEN owner.path IS NOT NULL THEN 'second_file_of_item'
        WHEN stem IN (SELECT name FROM known WHERE name IS NOT NULL)
          OR files.path IN (SELECT name FROM known WHERE name IS NOT NULL)
          THEN 'unused_file'
        ELSE 'file_without_item' END AS reason
    FROM files LEFT JOIN uses USING (path)
      LEFT JOIN items AS owner ON owner.id = stem
    WHERE problem = ''""")
  db.execute("""
    UPDATE files SET reason = judged.reason, details = judged.details
    FROM judged WHERE judged.path = files.path AND problem = ''""")
