"""Users, items with title and image, and events, from the raw tables.

Users and items get numbers, `u` and `i`. Ids that sort before others get
smaller ones, so that numbers order equal times as ids would.
"""

from pathlib import Path

from genrec_jax.core import duckdb_file
from genrec_jax.core.duckdb_file import Connection, quoted
from genrec_jax.ingest import image_files


def match(db: Connection, root: Path, by_path: bool) -> None:
  """Makes `users`, `items`, `events` and `core` from `raw_tables`.

  `users`: u, id. `items`: i, id, title, wanted (the path that is listed), path
  (of the image file), reason (NULL: it has a title and a file). `events`: u, i,
  ms, n: a user and an item, once, at the earliest of their n raw events.
  `core`: u, i, ms of the events whose item has no reason, for `k_core`.

  Args:
    db: the database.
    root: the images folder, for paths that begin with it.
    by_path: whether the titles give the path of an item's image; otherwise it
      is the file named like the item, in any folder, with any suffix: of
      several the one of most pixels, then of most bytes.
  """
  db.execute("""
    CREATE OR REPLACE TABLE users AS
    SELECT CAST(row_number() OVER (ORDER BY id) - 1 AS INTEGER) AS u, id
    FROM (SELECT DISTINCT "user" AS id FROM raw_events WHERE reason IS NULL)""")
  _make_items(db, root, by_path)
  # A later event of the same user and item is not another choice.
  db.execute("""
    CREATE OR REPLACE TABLE events AS
    SELECT u, i, min(ms) AS ms, CAST(count(*) AS INTEGER) AS n
    FROM raw_events JOIN users ON users.id = "user"
      JOIN items ON items.id = item
    WHERE raw_events.reason IS NULL GROUP BY u, i""")
  # What `k_core` shrinks; items without a title or an image are out already.
  db.execute("""
    CREATE OR REPLACE TABLE core AS
    SELECT u, i, ms FROM events SEMI JOIN
      (SELECT i FROM items WHERE reason IS NULL) USING (i)""")


def _make_items(db, root, by_path):
  """Makes `items`; see `match`."""
  # `wanted` is SQL of the path that is listed, `files` the join that finds it.
  if by_path:
    wanted = _path_in_folder(root)
    files = "files f ON f.path = wanted AND f.problem = ''"
  else:
    _choose_files(db, root)
    wanted, files = "CAST(NULL AS VARCHAR)", "stems f ON f.stem = id"
  db.execute(f"""
    CREATE OR REPLACE TABLE items AS
    WITH ids AS (
      SELECT DISTINCT item AS id FROM raw_events WHERE reason IS NULL
    ), named AS (
      SELECT id, title, CASE WHEN image <> '' THEN {wanted} END AS wanted
      FROM ids LEFT JOIN raw_titles t ON t.item = id AND t.reason IS NULL
    ), located AS (
      SELECT id, title, wanted, f.path FROM named LEFT JOIN {files}
    )
    SELECT CAST(row_number() OVER (ORDER BY id) - 1 AS INTEGER) AS i, id,
      title, wanted, path, CASE
        WHEN title IS NULL THEN 'no_title'
        WHEN path IS NOT NULL THEN NULL
        WHEN starts_with(wanted, '/') OR regexp_matches(wanted,
          '(^|[/\\\\])\\.\\.([/\\\\]|$)|^[A-Za-z]:[/\\\\]')
          THEN 'image_outside_folder'
        ELSE 'no_image' END AS reason
    FROM located""")


def _path_in_folder(root):
  """Returns SQL of the column `image` as `image_files.listing` writes paths."""
  prefix = quoted(f"{root.absolute()}/")  # of absolute paths on this machine
  # A list made on Windows separates folders by '\\', elsewhere a letter of
  # names: a file of exactly that name wins.
  slashed = r"""
    CASE WHEN image IN (SELECT path FROM files) THEN image ELSE regexp_replace(
      regexp_replace(replace(image, '\', '/'), '/(\./|/)+', '/', 'g'),
      '^(\./)+', '') END"""
  return f"""
    CASE WHEN starts_with(image, {prefix}) THEN image[length({prefix}) + 1:]
         ELSE {slashed} END"""


def _choose_files(db, root):
  """Makes `stems`: of files named alike, the path of the largest image."""
  db.execute("""
    CREATE OR REPLACE TABLE stems AS
    SELECT stem, min(path) AS path, count(*) AS n FROM files
    WHERE problem = '' GROUP BY stem""")
  # Sizes in pixels are read from the few files that have a rival only: there
  # may be millions of files.
  rivals = db.execute("""
    SELECT files.stem, files.path, size FROM files JOIN stems USING (stem)
    WHERE n > 1 AND problem = ''
      AND stem IN (SELECT item FROM raw_titles WHERE reason IS NULL)
    ORDER BY files.stem, files.path""").fetchall()
  largest: dict[str, tuple[tuple[int, int], str]] = {}
  for stem, path, num_bytes in rivals:
    size = (image_files.num_pixels(root, path), num_bytes)
    if stem not in largest or size > largest[stem][0]:
      largest[stem] = size, path
  if not largest:
    return
  columns = {
    "stem": list(largest),
    "path": [path for _, path in largest.values()],
  }
  with duckdb_file.registered(db, columns):
    db.execute("""
      UPDATE stems SET path = given.path FROM given
      WHERE given.stem = stems.stem""")
