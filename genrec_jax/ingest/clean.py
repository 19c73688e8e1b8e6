"""Interactions in SQL: what is kept of them, in which order, split where.

Runs out of core in a DuckDB file. The steps, in order: `read_titles`,
`read_files`, `read_rows`, `match`, `shrink_to_core`, `drop_images`,
`shrink_to_core` again, `write`. Ids that sort before others have smaller
numbers, so that numbers order ties as ids would.
"""

from collections.abc import Iterable, Mapping
import html
import itertools
from pathlib import Path
import re
from typing import Any

import numpy as np

from genrec_jax.core import duckdb_file
from genrec_jax.core.duckdb_file import quoted
from genrec_jax.data import histories
from genrec_jax.ingest import drops, image_files
from genrec_jax.ingest.readers.source import Table, reading, select

_TAG = re.compile(r"</?[A-Za-z!][^<>]*>")
# By magnitude: seconds until 5138, then milli-, micro- and nanoseconds since
# 1973. A date is understood too, in UTC unless it says its offset or zone.
# Short names of zones are not: BST, CST and IST are three zones each.
_ZONE = r"""(Z|z|UTC|GMT|(UTC|GMT)?[+-]\d\d?(:?\d\d){0,2}|""" + (
  r"""[A-Za-z]+(/[A-Za-z0-9_+-]+)+)$"""
)
_DATE = f"""
  CASE WHEN NOT regexp_matches(timestamp[12:], '[A-Za-z+-]')
       THEN epoch_ms(TRY_CAST(timestamp AS TIMESTAMP))
       WHEN regexp_matches(zoned, '{_ZONE}')
       THEN epoch_ms(TRY_CAST(zoned AS TIMESTAMPTZ)) END"""
# As DuckDB reads it: without Java's name of the zone after the offset, in
# brackets, and Go's; without a space before the offset.
_ZONED = r"""
  regexp_replace(regexp_replace(regexp_replace(timestamp,
    '\s*\[[^\]]*\]$', ''),
    '([+-]\d\d:?\d\d) [A-Za-z]+$', '\1'),
    '(\d) ([+-]\d)', '\1\2')"""
_MILLISECONDS = f"""
  CASE WHEN number < 0 THEN NULL
       WHEN number < 1e11 THEN CAST(floor(number * 1e3) AS BIGINT)
       WHEN number < 1e14 THEN CAST(floor(number) AS BIGINT)
       WHEN number < 1e17 THEN CAST(floor(number / 1e3) AS BIGINT)
       WHEN number < 1e20 THEN CAST(floor(number / 1e6) AS BIGINT)
       WHEN number IS NULL THEN {_DATE.replace("zoned", _ZONED)}
  END"""

_BATCH = 1 << 16  # values handed to the database together


def read_rows(db, table: Table, min_rating: float | None, work: Path) -> None:
  """Makes `raw_rows`: user, item, ms, reason (NULL: good), text.

  Args:
    db: the database.
    table: of interactions.
    min_rating: lower ratings are dropped; None: ratings are not looked at.
    work: a folder for a rewritten copy.
  """
  with reading(table):
    _read_rows(db, table, min_rating, work)
  for column in ("user", "item"):
    _drop_point_zero(db, "raw_rows", column)


def _read_rows(db, table, min_rating, work):
  source = select(table, ("user", "item", "timestamp", "rating"), work)
  rating = "TRUE" if min_rating is None else "FALSE"
  lowest = 0.0 if min_rating is None else float(min_rating)
  shown = ", ".join(
    f"""'{name} ' || if("{name}" = '', '(none)', "{name}")"""
    for name in ("user", "item", "timestamp", "rating")
  )
  db.execute(f"""
    CREATE OR REPLACE TABLE raw_rows AS
    WITH source AS ({source}), numbers AS (
      SELECT *, TRY_CAST(timestamp AS DOUBLE) AS number,
        TRY_CAST(rating AS DOUBLE) AS stars FROM source
    ), times AS (SELECT *, {_MILLISECONDS} AS ms FROM numbers), judged AS (
      SELECT *, CASE
        WHEN text IS NOT NULL THEN 'malformed_row'
        WHEN coalesce("user", '') = '' THEN 'missing_user'
        WHEN coalesce(item, '') = '' THEN 'missing_item'
        WHEN ms IS NULL OR ms < 0 THEN 'bad_timestamp'
        WHEN {rating} THEN NULL
        WHEN stars IS NULL OR NOT isfinite(stars) THEN 'bad_rating'
        WHEN stars < {lowest} THEN 'low_rating'
      END AS reason FROM times
    )
    SELECT "user", item, ms, reason,
      CASE WHEN reason <> 'low_rating' THEN coalesce(text, concat_ws(', ',
        {shown}))[:200] END AS text
    FROM judged""")


def read_titles(db, table: Table, paths: Table | None, work: Path) -> None:
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
  _clean_titles(db)
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
    with reading(paths):
      db.execute(f"""
        CREATE OR REPLACE TABLE raw_paths AS
        SELECT * FROM ({select(paths, ("item", "image"), work)})""")
    _drop_point_zero(db, "raw_paths", "item")
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


def read_files(db, listing: Iterable[image_files.File]) -> None:
  """Makes `files`: path, stem, problem, size, reason, details."""
  db.execute("""
    CREATE OR REPLACE TABLE files
      (path VARCHAR, stem VARCHAR, problem VARCHAR, size BIGINT,
       reason VARCHAR, details VARCHAR)""")
  for batch in _batches(listing, _BATCH):
    columns = {
      "path": [file.path for file in batch],
      "stem": [Path(file.path).stem for file in batch],
      "problem": [file.problem for file in batch],
      "size": [file.size for file in batch],
    }
    with duckdb_file.registered(db, columns):
      db.execute("""
        INSERT INTO files SELECT path, stem, problem, size,
          nullif(problem, ''), NULL FROM given""")


def match(db, root: Path, by_path: bool) -> None:
  """Makes `users`, `items` and `pairs` of what is good in the raw tables.

  `users`: u, id. `items`: i, id, title, path (of the image), reason (NULL: a
  title and a file). `pairs`: u, i, ms, n: a user and an item, once, at the
  earliest of their n events.

  Args:
    db: the database.
    root: the images folder, for paths that begin with it.
    by_path: whether the titles say where an item's image is; otherwise it is
      the file named like the item, in any folder, with any suffix: of several
      the one of most pixels, then of most bytes.
  """
  db.execute("""
    CREATE OR REPLACE TABLE users AS
    SELECT CAST(row_number() OVER (ORDER BY id) - 1 AS INTEGER) AS u, id
    FROM (SELECT DISTINCT "user" AS id FROM raw_rows WHERE reason IS NULL)""")
  within = f"{quoted(str(root.absolute()) + '/')}"
  # A list made on Windows parts folders by '\\', elsewhere a letter of names.
  slashed = r"""
    CASE WHEN image IN (SELECT path FROM files) THEN image ELSE regexp_replace(
      regexp_replace(replace(image, '\', '/'), '/(\./|/)+', '/', 'g'),
      '^(\./)+', '') END"""
  path = f"""
    CASE WHEN starts_with(image, {within}) THEN image[length({within}) + 1:]
         ELSE {slashed} END"""
  join = "files f ON f.path = wanted AND f.problem = ''"
  if not by_path:
    path, join = "CAST(NULL AS VARCHAR)", "stems f ON f.stem = id"
    _choose_files(db, root)
  db.execute(f"""
    CREATE OR REPLACE TABLE items AS
    WITH ids AS (
      SELECT DISTINCT item AS id FROM raw_rows WHERE reason IS NULL
    ), named AS (
      SELECT id, title, CASE WHEN image <> '' THEN {path} END AS wanted
      FROM ids LEFT JOIN raw_titles t ON t.item = id AND t.reason IS NULL
    ), found AS (
      SELECT id, title, wanted, f.path FROM named LEFT JOIN
      {join}
    )
    SELECT CAST(row_number() OVER (ORDER BY id) - 1 AS INTEGER) AS i, id,
      title, wanted, path, CASE
        WHEN title IS NULL THEN 'no_title'
        WHEN path IS NOT NULL THEN NULL
        WHEN starts_with(wanted, '/') OR regexp_matches(wanted,
          '(^|[/\\\\])\\.\\.([/\\\\]|$)|^[A-Za-z]:[/\\\\]')
          THEN 'image_outside_folder'
        ELSE 'no_image' END AS reason
    FROM found""")
  db.execute("""
    CREATE OR REPLACE TABLE pairs AS
    SELECT u, i, min(ms) AS ms, CAST(count(*) AS INTEGER) AS n
    FROM raw_rows JOIN users ON users.id = "user" JOIN items ON items.id = item
    WHERE raw_rows.reason IS NULL GROUP BY u, i""")
  db.execute("""
    CREATE OR REPLACE TABLE core AS
    SELECT u, i, ms FROM pairs SEMI JOIN
      (SELECT i FROM items WHERE reason IS NULL) USING (i)""")


def shrink_to_core(db, k: int) -> list[str]:
  """Drops from `core` users and items of fewer than `k` events until none is.

  Returns:
    The first offenders.
  """
  offenders: list[str] = []
  while True:
    for column in ("u", "i"):
      db.execute(f"""
        CREATE OR REPLACE TEMP TABLE few_{column} AS
        SELECT {column} FROM core GROUP BY {column} HAVING count(*) < {k}""")
    few = "u IN (FROM few_u) OR i IN (FROM few_i)"
    if not duckdb_file.one(
      db, "SELECT (SELECT count(*) FROM few_u) + (SELECT count(*) FROM few_i)"
    ):
      return offenders
    if not offenders:
      offenders = drops.named(db, f"SELECT u, i FROM core WHERE {few}")
    # A new table rather than a deletion: the old one's space is used again.
    db.execute(f"""
      CREATE TABLE smaller AS
      SELECT * FROM core WHERE NOT ({few})""")
    db.execute("DROP TABLE core")
    db.execute("ALTER TABLE smaller RENAME TO core")


def candidates(db) -> list[tuple[str, str]]:
  """Returns (id, image path) of the items that are in `core`, by id."""
  rows = db.execute("""
    SELECT id, path FROM items SEMI JOIN core USING (i) ORDER BY i""")
  return rows.fetchall()


def drop_images(db, unusable: Mapping[str, tuple[str, str]]) -> None:
  """Takes items out of `core` whose image cannot be used.

  Args:
    db: the database.
    unusable: by item id, reason and details.
  """
  columns = {
    "id": list(unusable),
    "why": [reason for reason, _ in unusable.values()],
    "details": [details for _, details in unusable.values()],
  }
  with duckdb_file.registered(db, columns):
    db.execute("""
      CREATE OR REPLACE TABLE bad_images AS
      SELECT CAST(id AS VARCHAR) AS id, CAST(why AS VARCHAR) AS why,
        CAST(details AS VARCHAR) AS details FROM given""")
  db.execute("""
    UPDATE items SET reason = 'bad_image'
    WHERE id IN (SELECT id FROM bad_images)""")
  if unusable:
    db.execute("""
      CREATE OR REPLACE TABLE core AS SELECT * FROM core SEMI JOIN
        (SELECT i FROM items WHERE reason IS NULL) USING (i)""")


def write(db, folder: Path, future_horizon: int) -> dict[str, Any]:
  """Writes the Parquet files that `prepared` tells of, from `core`.

  Args:
    db: the database.
    folder: to write to.
    future_horizon: see `histories.split_points`.

  Returns:
    Numbers of users, items, events, and of users by length of history.
  """
  for letter, name in (("u", "users"), ("i", "items")):
    db.execute(f"""
      CREATE OR REPLACE TABLE kept_{name} AS
      SELECT {letter}, row_number() OVER (ORDER BY {letter}) - 1 AS row,
        count(*) AS length FROM core GROUP BY {letter}""")
  db.execute("""
    CREATE OR REPLACE TABLE events AS
    SELECT x.row AS user_row, y.row AS item_row, ms AS timestamp
    FROM core JOIN kept_users x USING (u) JOIN kept_items y USING (i)
    ORDER BY user_row, timestamp, item_row""")
  lengths = dict(
    db.execute("""
      SELECT length, count(*) FROM kept_users GROUP BY length
      ORDER BY length""").fetchall()
  )
  length = np.asarray(list(lengths), np.int64)  # [n], of users' histories
  splits = histories.split_points(length, future_horizon)._asdict()
  parts = {"length": length, **splits}
  with duckdb_file.registered(db, parts, np.int64):
    duckdb_file.copy(
      db,
      f"""
      SELECT id, CAST(sum(length) OVER (ORDER BY row) - length AS BIGINT)
        AS first, length, {", ".join(splits)}
      FROM kept_users JOIN users USING (u) JOIN given USING (length)
      ORDER BY row""",
      folder / "users.parquet",
    )
  duckdb_file.copy(
    db,
    """
    SELECT id, title, path AS image FROM kept_items JOIN items USING (i)
    ORDER BY row""",
    folder / "items.parquet",
  )
  duckdb_file.copy(
    db,
    "SELECT user_row, item_row, timestamp FROM events",
    folder / "events.parquet",
  )
  return {
    "users": sum(lengths.values()),
    "items": duckdb_file.one(db, "SELECT count(*) FROM kept_items"),
    "events": duckdb_file.one(db, "SELECT count(*) FROM events"),
    "lengths": lengths,
  }


def _drop_point_zero(db, table, column):
  """Takes '.0' off the ids of a column in which all end so.

  They were integers until one was missing: pandas makes floats of all then.
  """
  name = f'"{column}"'
  exact = f"regexp_full_match({name}, '-?[0-9]+\\.0')"
  # Of other columns, the first value says so.
  if not db.execute(f"""
      SELECT {name} FROM {table} WHERE {name} <> '' AND NOT {exact}
      LIMIT 1""").fetchall():
    db.execute(f"UPDATE {table} SET {name} = {name}[:-3] WHERE {exact}")


def _choose_files(db, root):
  """Makes `stems`: of files named alike, the path of the largest image."""
  db.execute("""
    CREATE OR REPLACE TABLE stems AS
    SELECT stem, min(path) AS path, count(*) AS n FROM files
    WHERE problem = '' GROUP BY stem""")
  rivals = db.execute("""
    SELECT files.stem, files.path, size FROM files JOIN stems USING (stem)
    WHERE n > 1 AND problem = ''
      AND stem IN (SELECT item FROM raw_titles WHERE reason IS NULL)
    ORDER BY files.stem, files.path""").fetchall()
  largest = {}
  for stem, path, size in rivals:
    found = (image_files.num_pixels(root, path), size)
    if stem not in largest or found > largest[stem][0]:
      largest[stem] = found, path
  columns = {
    "stem": list(largest),
    "path": [path for _, path in largest.values()],
  }
  if largest:
    with duckdb_file.registered(db, columns):
      db.execute("""
        UPDATE stems SET path = given.path FROM given
        WHERE given.stem = stems.stem""")


def _clean_titles(db):
  """Cleans the titles in `raw_titles`; see `clean_title`."""
  cursor = db.cursor()  # reads on while `db` writes
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


def _batches(values, size):
  """Yields lists of up to `size` of some values."""
  values = iter(values)
  while batch := list(itertools.islice(values, size)):
    yield batch
