"""The raw files as tables of the database, every row kept or with a reason.

The first steps of an import, in order: `read_titles`, `read_files`,
`read_events`; `matching` goes on with what they make. A row's `reason` is one
of `drops`, NULL while nothing is wrong with it.
"""

from collections.abc import Iterable
import html
import itertools
from pathlib import Path
import re
from typing import Any

from genrec_jax.core import duckdb_file
from genrec_jax.core.duckdb_file import Connection, identifier
from genrec_jax.ingest import image_files, timestamps
from genrec_jax.ingest.readers.sql import select
from genrec_jax.ingest.readers.table import Table, reading

_TAG = re.compile(r"</?[A-Za-z!][^<>]*>")
_BATCH = 1 << 16  # values handed to the database together


def read_events(
  db: Connection, table: Table, min_rating: float | None, work: Path
) -> None:
  """Makes `raw_events`: user, item, ms, reason, text.

  Args:
    db: the database.
    table: of interactions.
    min_rating: lower ratings are dropped; None: ratings are not looked at.
    work: a folder for a rewritten copy.
  """
  with reading(table):
    _read_events(db, table, min_rating, work)
  for column in ("user", "item"):
    _drop_point_zero(db, "raw_events", column)


def _read_events(db, table, min_rating, work):
  roles = ("user", "item", "timestamp", "rating")
  source = select(table, roles, work)
  # Ratings that nobody looks at may be anything, and may be missing.
  any_rating = "TRUE" if min_rating is None else "FALSE"
  lowest = 0.0 if min_rating is None else float(min_rating)
  shown = ", ".join(
    f"""'{role} ' || if("{role}" = '', '(none)', "{role}")""" for role in roles
  )
  # A row has one reason, the first that applies. `text` shows it in the report;
  # of low ratings, which are many, that would only take space.
  db.execute(f"""
    CREATE OR REPLACE TABLE raw_events AS
    WITH source AS ({source}), numbers AS (
      SELECT *, TRY_CAST(timestamp AS DOUBLE) AS number,
        TRY_CAST(rating AS DOUBLE) AS stars FROM source
    ), times AS (
      SELECT *, {timestamps.MILLISECONDS} AS ms FROM numbers
    ), judged AS (
      SELECT *, CASE
        WHEN text IS NOT NULL THEN 'malformed_row'
        WHEN coalesce("user", '') = '' THEN 'missing_user'
        WHEN coalesce(item, '') = '' THEN 'missing_item'
        WHEN ms IS NULL OR ms < 0 THEN 'bad_timestamp'
        WHEN {any_rating} THEN NULL
        WHEN stars IS NULL OR NOT isfinite(stars) THEN 'bad_rating'
        WHEN stars < {lowest} THEN 'low_rating'
      END AS reason FROM times
    )
    SELECT "user", item, ms, reason,
      CASE WHEN reason <> 'low_rating' THEN coalesce(text, concat_ws(', ',
        {shown}))[:200] END AS text
    FROM judged""")


def read_titles(
  db: Connection, table: Table, paths: Table | None, work: Path
) -> None:
  """Makes `raw_titles`: item, title, image, reason, text.

  Args:
    db: the database.
    table: of items and titles, perhaps with image paths.
    paths: of items and image paths, if they are in a table of their own.
    work: a folder for rewritten copies.
  """
  with reading(table):
    source = select(table, ("item", "title", "image"), work)
    db.execute(f"""
      CREATE OR REPLACE TABLE raw_titles AS
      SELECT item, title, image, text, CAST(NULL AS VARCHAR) AS reason
      FROM ({source})""")
  _drop_point_zero(db, "raw_titles", "item")
  _clean_titles(db)  # before they are judged: nothing may be left
  db.execute("""
    UPDATE raw_titles SET reason = CASE
      WHEN text IS NOT NULL THEN 'malformed_title_row'
      WHEN coalesce(item, '') = '' THEN 'title_without_item'
      WHEN coalesce(title, '') = '' THEN 'empty_title' END""")
  db.execute("""
    UPDATE raw_titles SET reason = 'second_title_of_item'
    WHERE reason IS NULL AND rowid NOT IN (
      SELECT min(rowid) FROM raw_titles WHERE reason IS NULL GROUP BY item
    )""")
  if paths is not None:
    _read_paths(db, paths, work)


def _read_paths(db, paths, work):
  """Takes the image paths of `raw_titles` from a table of their own."""
  with reading(paths):
    db.execute(f"""
      CREATE OR REPLACE TABLE raw_paths AS
      SELECT * FROM ({select(paths, ("item", "image"), work)})""")
  _drop_point_zero(db, "raw_paths", "item")
  # Of several paths of an item the first counts.
  db.execute("""
    UPDATE raw_titles SET image = (
      SELECT arg_min(image, raw_paths.rowid) FROM raw_paths
      WHERE raw_paths.item = raw_titles.item AND image <> '')""")


def clean_title(title: str) -> str:
  """Returns a title in one line, without HTML tags and entities."""
  # Twice: '&lt;b&gt;' is a tag that was escaped, '&amp;amp;' happens too.
  for _ in range(2):
    title = _TAG.sub(" ", html.unescape(title))
  return " ".join("".join(c if c.isprintable() else " " for c in title).split())


def read_files(db: Connection, listing: Iterable[image_files.File]) -> None:
  """Makes `files`: path, stem, problem, size, reason, details."""
  db.execute("""
    CREATE OR REPLACE TABLE files
      (path VARCHAR, stem VARCHAR, problem VARCHAR, size BIGINT,
       reason VARCHAR, details VARCHAR)""")
  listing = iter(listing)  # of millions, perhaps: in batches
  while batch := list(itertools.islice(listing, _BATCH)):
    columns: dict[str, list[Any]] = {
      "path": [file.path for file in batch],
      "stem": [Path(file.path).stem for file in batch],
      "problem": [file.problem for file in batch],
      "size": [file.size for file in batch],
    }
    with duckdb_file.registered(db, columns):
      db.execute("""
        INSERT INTO files SELECT path, stem, problem, size,
          nullif(problem, ''), NULL FROM given""")


def _drop_point_zero(db, table, column):
  """Removes '.0' from the ids of a column in which all end so.

  They were integers until one was missing: pandas makes floats of all then.
  """
  name = identifier(column)
  exact = f"regexp_full_match({name}, '-?[0-9]+\\.0')"
  # In other columns, the first value rules it out.
  if not db.execute(f"""
      SELECT {name} FROM {table} WHERE {name} <> '' AND NOT {exact}
      LIMIT 1""").fetchall():
    db.execute(f"UPDATE {table} SET {name} = {name}[:-3] WHERE {exact}")


def _clean_titles(db):
  """Cleans the titles in `raw_titles`; see `clean_title`."""
  cursor = db.cursor()  # reads on while `db` writes
  # Most titles are plain words, which DuckDB finds faster than Python cleans.
  cursor.execute("""
    SELECT DISTINCT title FROM raw_titles WHERE title IS NOT NULL AND NOT
      regexp_full_match(title, '[!-%''-;=?-~]+( [!-%''-;=?-~]+)*')""")
  db.execute("""
    CREATE OR REPLACE TEMP TABLE cleaned (dirty VARCHAR, clean VARCHAR)""")
  while batch := [title for (title,) in cursor.fetchmany(_BATCH)]:
    columns = {"dirty": batch, "clean": list(map(clean_title, batch))}
    with duckdb_file.registered(db, columns):
      db.execute("INSERT INTO cleaned SELECT dirty, clean FROM given")
  cursor.close()
  db.execute("""
    UPDATE raw_titles SET title = clean FROM cleaned WHERE title = dirty""")
