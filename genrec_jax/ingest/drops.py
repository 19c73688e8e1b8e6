"""Where everything raw ended: kept, or dropped for one reason.

Every row of interactions and of titles and every file of the images folder is
in exactly one bucket, so that the counts add up to what was read.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from genrec_jax.core import duckdb_file
from genrec_jax.data import histories, images
from genrec_jax.ingest.readers.source import Table, lines_of

# Why interactions, titles and image files are dropped, and what that means.
ROWS = {
  "malformed_row": "wrong number of fields, or unreadable",
  "missing_user": "no user id",
  "missing_item": "no item id",
  "bad_timestamp": "no number from 0 on, no date since 1970",
  "bad_rating": "no number where a rating should be",
  "low_rating": "below the least rating asked for",
  "duplicate": "a later event of the same user and item",
  "no_title": "its item has no title",
  "no_image": "its item has no file in the images folder",
  "image_outside_folder": "its image path leaves the images folder",
  "bad_image": "its item's image cannot be used",
  "k_core": "too few events of its user or item left",
}
TITLES = {
  "malformed_title_row": "wrong number of fields, or unreadable",
  "title_without_item": "no item id",
  "empty_title": "nothing is left without HTML and spaces",
  "second_title_of_item": "an earlier row is of the same item",
  "unused_title": "its item is in no row that was kept",
}
FILES = {
  "symbolic_link": "links may lead anywhere: not followed",
  "not_a_regular_file": "a pipe, socket or device",
  "unreadable_folder": "its files cannot be listed",
  "bad_file_name": "not UTF-8",
  "file_without_item": "named like no item",
  "second_file_of_item": "the item has a larger or a listed one",
  "unused_file": "its item is in no row that was kept",
  "empty_file": "0 bytes",
  "not_an_image": "no format that is read",
  "truncated": "ends too early",
  "damaged": "cannot be decoded",
  "too_large": "more pixels than are safe to decode",
  "too_small": f"a side of fewer than {images.MIN_SIDE} pixels",
  "unsupported_mode": "floating-point pixels",
  "unreadable_file": "cannot be opened",
}
OFFENDERS = 5  # named for each reason
# Above this share of neighbouring events at equal times, order is mostly that
# of item ids. Ratings that people enter in one go have a quarter of such.
TIED = 0.5
# Times before or after are no times of events: days, years or dates as numbers.
_YEARS = ("1980", "2100")
_SHOWN = 160  # letters of a bad row
_DAY = 24 * 3600 * 1000
# Times between events of a user, each shorter than so many milliseconds.
GAPS = (
  ("tied", 1),
  ("a minute", 60_000),
  ("an hour", 3_600_000),
  ("a day", _DAY),
  ("a week", 7 * _DAY),
  ("30 days", 30 * _DAY),
  ("a year", 365 * _DAY),
)


def account(
  db, k_core: list[str], tables: Mapping[str, Table] | None = None
) -> dict[str, Any]:
  """Counts where every raw row, title and file ended, when `write` has run.

  Args:
    db: the database.
    k_core: offenders, of `shrink_to_core`.
    tables: that 'raw_rows' and 'raw_titles' were read from, to name the lines
      of malformed rows.

  Returns:
    The parts 'rows', 'titles', 'images' and 'offenders' of the report.
  """
  _judge_titles(db)
  _judge_files(db)
  offenders = dict(
    db.execute(f"""
      SELECT reason, arg_min(text, place, {OFFENDERS}) FROM (
        SELECT reason, coalesce(text, 'user ' || "user" || ', item ' || item)
          AS text, rowid AS place
        FROM raw_rows WHERE reason IS NOT NULL
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
  offenders["duplicate"] = named(db, "SELECT u, i FROM pairs WHERE n > 1")
  offenders["k_core"] = k_core
  for name, reason in (
    ("raw_rows", "malformed_row"),
    ("raw_titles", "malformed_title_row"),
  ):
    table = (tables or {}).get(name)
    if table and reason in offenders:
      offenders[reason] = _lines(db, name, reason, table)
  order = (*ROWS, *TITLES, *FILES)
  return {
    "rows": _row_counts(db),
    "titles": _counts(db, "raw_titles", TITLES),
    "images": _counts(db, "files", FILES),
    "offenders": {
      name: offenders[name] for name in order if offenders.get(name)
    },
  }


def windows(lengths: Mapping[int, int], future_horizon: int) -> dict[str, int]:
  """Counts the windows of users of some lengths: {length: users}."""
  users = np.asarray(list(lengths.values()), np.int64)  # [n]
  length = np.asarray(list(lengths), np.int64)  # [n]
  splits = histories.split_points(length, future_horizon)
  return {
    split: int(users @ histories.target_ranges(split, length, splits).size)
    for split in histories.SPLITS
  }


def gaps(db) -> dict[str, Any]:
  """Returns what the report says of the times between a user's events."""
  bounds = [bound for _, bound in GAPS]
  cases = " ".join(
    f"WHEN gap < {bound} THEN {place}" for place, bound in enumerate(bounds)
  )
  # `events` is in order, so that no window has to sort.
  found = dict(
    db.execute(f"""
      SELECT CASE {cases} ELSE {len(bounds)} END AS place, count(*) FROM (
        SELECT timestamp - lag(timestamp) OVER () AS gap,
          user_row = lag(user_row) OVER () AS same FROM events
      ) WHERE same GROUP BY place""").fetchall()
  )
  names = [*(name for name, _ in GAPS), "longer"]
  counts = {name: found.get(place, 0) for place, name in enumerate(names)}
  one_day = f"""
    SELECT count(*) FROM (SELECT user_row FROM events GROUP BY user_row
      HAVING count(*) > 1 AND max(timestamp) - min(timestamp) < {_DAY})"""
  form = "'%Y-%m-%dT%H:%M:%SZ'"
  times = db.execute(f"""
    SELECT strftime(make_timestamp(min(timestamp) * 1000), {form}),
      strftime(make_timestamp(max(timestamp) * 1000), {form})
    FROM events""").fetchall()[0]
  return {
    "gaps": counts,
    "tied_share": counts["tied"] / max(sum(counts.values()), 1),
    "users_of_one_day": duckdb_file.one(db, one_day),
    "times": dict(zip(("first", "last"), times, strict=True)),
  }


def time_warnings(found: Mapping[str, Any]) -> list[str]:
  """Returns warnings of what `gaps` found: order or times mean little."""
  warnings, (first, last) = [], found["times"].values()
  if found["tied_share"] > TIED:
    warnings.append(
      f"{found['tied_share']:.0%} of neighbouring events of a user have the "
      "same time: item ids order them, so that the next item is mostly "
      "arbitrary. Perhaps the times have lost their hours."
    )
  if first < _YEARS[0] or last >= _YEARS[1]:
    warnings.append(
      f"events are from {first} to {last}: perhaps the raw times are days, "
      "years or dates such as 20200102, which are read as seconds since 1970."
    )
  return warnings


def _lines(db, name, reason, table):
  """Returns the first rows that could not be read, with their lines."""
  rows = db.execute(f"""
    SELECT rowid FROM {name} WHERE reason = '{reason}'
    ORDER BY rowid LIMIT {OFFENDERS}""").fetchall()
  found = lines_of(table, [row for (row,) in rows])
  return [
    f"line {number} of {table.path.name}: {text[:_SHOWN]}"
    for _, (number, text) in sorted(found.items())
  ]


def named(db, pairs: str) -> list[str]:
  """Returns the first of a query's pairs (u, i) in words."""
  rows = db.execute(f"""
    SELECT 'user ' || users.id || ', item ' || items.id FROM (
      SELECT u, i FROM ({pairs}) ORDER BY u, i LIMIT {OFFENDERS}
    ) JOIN users USING (u) JOIN items USING (i) ORDER BY u, i""")
  return [text for (text,) in rows.fetchall()]


def _row_counts(db):
  """Returns the bucket of the interactions."""
  of_items = dict(
    db.execute("""
      SELECT reason, count(*) FROM pairs JOIN items USING (i)
      GROUP BY reason""").fetchall()
  )
  kept = duckdb_file.one(db, "SELECT count(*) FROM core")
  dropped = {
    **_counts(db, "raw_rows", ROWS)["dropped"],
    "duplicate": duckdb_file.one(
      db, "SELECT coalesce(sum(n - 1), 0) FROM pairs"
    ),
    "k_core": of_items.pop(None, 0) - kept,
    **of_items,
  }
  read = duckdb_file.one(db, "SELECT count(*) FROM raw_rows")
  return _bucket(read, kept, dropped, ROWS)


def _counts(db, table, reasons):
  """Returns the bucket of a table whose rows have reasons, NULL if kept."""
  found = dict(
    db.execute(
      f"SELECT reason, count(*) FROM {table} GROUP BY reason"
    ).fetchall()
  )
  read = sum(found.values())
  return _bucket(read, found.pop(None, 0), found, reasons)


def _bucket(read, kept, dropped, reasons):
  ordered = {reason: int(dropped.pop(reason, 0)) for reason in reasons}
  if dropped:
    raise AssertionError(f"uncounted: {dropped}")
  return {
    "read": read,
    "kept": kept,
    "dropped": {reason: n for reason, n in ordered.items() if n},
  }


def _judge_titles(db):
  db.execute("""
    UPDATE raw_titles SET reason = 'unused_title'
    WHERE reason IS NULL AND item NOT IN (
      SELECT id FROM items JOIN kept_items USING (i))""")


def _judge_files(db):
  """Gives each file that is not kept its reason."""
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
