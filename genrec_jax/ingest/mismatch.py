"""Checks that image files belong to the items: refused or warned otherwise."""

from pathlib import Path

from genrec_jax.core.duckdb_file import Connection, identifier
from genrec_jax.core.errors import UserError, listed
from genrec_jax.ingest import naming
from genrec_jax.ingest.naming import FILES, SHARE, TITLED
from genrec_jax.ingest.readers.sql import select
from genrec_jax.ingest.readers.table import Table, reading

_CLEARLY = 2  # times as many names that only the other id explains
_FEW = 3  # names; fewer match by accident
_SHOWN = 3  # examples


def check_other_ids(
  db: Connection, table: Table, root: Path, work: Path
) -> None:
  """Checks that image files are named by item, not by another id of it.

  Small integers are ids of both kinds by accident. So names are counted that
  are ids of one kind only: of the true one they are many.

  Args:
    db: the database, with `raw_titles` and `files`.
    table: of items and their other ids, of which each is a role.
    root: the images folder.
    work: a folder for a rewritten copy.

  Raises:
    UserError: most names are of the other kind; says which, with examples.
  """
  kinds = [role for role in table.roles if role != "item"]
  with reading(table):
    db.execute(f"""
      CREATE OR REPLACE TEMP TABLE other_ids AS
      SELECT * FROM ({select(table, ("item", *kinds), work)})""")
  for kind in kinds:
    # Both as plain numbers, of which links.csv and file names write variants.
    value, name = _plain(kind, identifier(kind)), _plain(kind, "name")
    counts = f"""
      WITH names AS ({FILES}), judged AS (
        SELECT name IN ({TITLED}) AS ours, {name} IN (
          SELECT {value} FROM other_ids WHERE {identifier(kind)} <> ''
        ) AS theirs FROM names)
      SELECT count(*) FILTER (theirs), count(*) FILTER (theirs AND NOT ours),
        count(*) FILTER (ours AND NOT theirs), count(*) FROM judged"""
    ((theirs, only_theirs, only_ours, number),) = db.execute(counts).fetchall()
    if only_theirs < _FEW or only_theirs <= _CLEARLY * only_ours:
      continue  # named by item, or too few to tell
    column = table.roles["item"]
    raise UserError(
      listed(
        f"the images in {root} are named by {kind}, not by {column}: "
        f"{theirs:,} of {number:,} names are ids of that kind in "
        f"{table.path.name}, {only_ours:,} are of {column} only. Rename each "
        f"file {{{column}}}.jpg, or give the paths with --image_list=FILE, of "
        "columns item_id and path:",
        _misnamed(db, kind),
      )
    )


def _misnamed(db, kind):
  """Returns examples of files that are named by another id, in words.

  Those first that would become the image of another item.
  """
  examples = db.execute(f"""
    SELECT any_value(path), any_value(other_ids.item), any_value(t.title),
      any_value(wrong.title)
    FROM (SELECT path, stem AS name FROM files WHERE problem = '')
    JOIN other_ids ON {_plain(kind, identifier(kind))} = {_plain(kind, "name")}
      AND {identifier(kind)} <> ''
    JOIN raw_titles t ON t.item = other_ids.item AND t.reason IS NULL
    LEFT JOIN raw_titles wrong ON wrong.item = name AND wrong.reason IS NULL
    GROUP BY name
    ORDER BY any_value(wrong.title) IS NULL, length(name), name
    LIMIT {_SHOWN}""").fetchall()
  return [
    f"{path} is {title!r}, item {item}"
    + (f"; item {Path(path).stem} is {wrong!r}" if wrong else "")
    for path, item, title, wrong in examples
  ]


def unmatched_names(db: Connection, titles: Path, root: Path) -> list[str]:
  """Returns a warning if most image files are named like no item."""
  number, without = db.execute(f"""
    SELECT count(*), count(*) FILTER (name NOT IN ({TITLED}))
    FROM ({FILES})""").fetchall()[0]
  if without <= SHARE * number:
    return []
  # A warning only: a folder may hold images of more items than the titles.
  strange = f"SELECT name FROM ({FILES}) WHERE name NOT IN ({TITLED})"
  return [
    f"{without:,} of {number:,} files in {root} are named like no item of "
    f"{titles.name}: {naming.some(db, strange)}; items are called "
    f"{naming.some(db, TITLED)}. {naming.of_names(db)}"
  ]


def unmatched_paths(db: Connection, root: Path) -> list[str]:
  """Returns a warning if most image paths of items are not in the folder."""
  number, without = db.execute("""
    SELECT count(*), count(*) FILTER (path IS NULL) FROM items
    WHERE wanted IS NOT NULL""").fetchall()[0]
  if without <= SHARE * number:
    return []
  return [
    f"{without:,} of {number:,} image paths are not in {root}. "
    f"{naming.of_paths(db, root)}"
  ]


def _plain(role, column):
  """Returns SQL of an id as links.csv and others write it: 862, tt0114709."""
  if role == "imdbId":  # links.csv leaves 'tt' out, zeros come and go
    return f"ltrim(regexp_replace(lower({column}), '^tt', ''), '0')"
  return rf"regexp_replace({column}, '\.0+$', '')"
