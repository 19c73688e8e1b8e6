"""Ids and file names that should be the same and are not: which, and why."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genrec_jax.core import duckdb_file
from genrec_jax.core.errors import UserError, listed
from genrec_jax.ingest.readers.source import Table, reading, select

SHARE = 0.5  # of names that match nothing, above which is warned
_CLEARLY = 2  # times as many names that only the other id explains
_FEW = 3  # names; fewer match by accident
_SHOWN = 3
# What a name and an id may differ by, and what is left without it.
_DIFFERENCES = (
  ("upper and lower case", "lower(name)", "lower(id)"),
  ("zeros at the beginning", "ltrim(name, '0')", "ltrim(id, '0')"),
  (
    "'.0' at the end",
    r"regexp_replace(name, '\.0+$', '')",
    r"regexp_replace(id, '\.0+$', '')",
  ),
  ("a second suffix", r"regexp_replace(name, '\.[A-Za-z]{3,4}$', '')", "id"),
  ("what follows the id", "regexp_extract(name, '^[^_ .-]+')", "id"),
  ("what comes before the id", "regexp_extract(name, '[^_ .-]+$')", "id"),
)
_FILES = "SELECT stem AS name FROM files WHERE problem = ''"
_TITLED = "SELECT DISTINCT item AS id FROM raw_titles WHERE item <> ''"


def check_other_ids(db, table: Table, root: Path, work: Path) -> None:
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
  others = [role for role in table.roles if role != "item"]
  with reading(table):
    db.execute(f"""
      CREATE OR REPLACE TEMP TABLE other_ids AS
      SELECT * FROM ({select(table, ("item", *others), work)})""")
  for role in others:
    value, name = _plain(role, f'"{role}"'), _plain(role, "name")
    counts = f"""
      WITH names AS ({_FILES}), judged AS (
        SELECT name IN ({_TITLED}) AS ours,
          {name} IN (SELECT {value} FROM other_ids WHERE "{role}" <> '')
          AS theirs FROM names)
      SELECT count(*) FILTER (theirs), count(*) FILTER (theirs AND NOT ours),
        count(*) FILTER (ours AND NOT theirs), count(*) FROM judged"""
    ((theirs, only_theirs, only_ours, number),) = db.execute(counts).fetchall()
    if only_theirs < _FEW or only_theirs <= _CLEARLY * only_ours:
      continue
    examples = db.execute(f"""
      SELECT any_value(path), any_value(other_ids.item), any_value(t.title),
        any_value(wrong.title)
      FROM (SELECT path, stem AS name FROM files WHERE problem = '')
      JOIN other_ids ON {value} = {name} AND "{role}" <> ''
      JOIN raw_titles t ON t.item = other_ids.item AND t.reason IS NULL
      LEFT JOIN raw_titles wrong ON wrong.item = name AND wrong.reason IS NULL
      GROUP BY name
      ORDER BY any_value(wrong.title) IS NULL, length(name), name
      LIMIT {_SHOWN}""").fetchall()
    column = table.roles["item"]
    raise UserError(
      listed(
        f"the images in {root} are named by {role}, not by {column}: "
        f"{theirs:,} of {number:,} names are ids of that kind in "
        f"{table.path.name}, {only_ours:,} are of {column} only. Rename each "
        f"file {{{column}}}.jpg, or give the paths with --image_list=FILE, of "
        "columns item_id and path:",
        [
          f"{path} is {title!r}, item {item}"
          + (f"; item {Path(path).stem} is {wrong!r}" if wrong else "")
          for path, item, title, wrong in examples
        ],
      )
    )


def unmatched_names(db, titles: Path, root: Path) -> list[str]:
  """Returns a warning if most image files are named like no item."""
  number, without = db.execute(f"""
    SELECT count(*), count(*) FILTER (name NOT IN ({_TITLED}))
    FROM ({_FILES})""").fetchall()[0]
  if without <= SHARE * number:
    return []
  strange = f"FROM ({_FILES}) WHERE name NOT IN ({_TITLED})"
  return [
    f"{without:,} of {number:,} files in {root} are named like no item of "
    f"{titles.name}: {_some(db, f'SELECT name {strange}')}; items are called "
    f"{_some(db, _TITLED)}. {_advice(_difference(db, _FILES, _TITLED))}"
  ]


def unmatched_paths(db, root: Path) -> list[str]:
  """Returns a warning if most image paths of items are not in the folder."""
  number, without = db.execute("""
    SELECT count(*), count(*) FILTER (path IS NULL) FROM items
    WHERE wanted IS NOT NULL""").fetchall()[0]
  if without <= SHARE * number:
    return []
  return [
    f"{without:,} of {number:,} image paths are not in {root}. "
    f"{_path_reason(db, root)}"
  ]


def nothing_left(
  db,
  interactions: Table,
  titles: Table,
  root: Path,
  *,
  by_path: bool,
  k_core: int,
  counts: Mapping[str, Any],
) -> str:
  """Returns what to say where no event is left: counts, examples, a reason.

  Args:
    db: the database.
    interactions: the table.
    titles: the table.
    root: the images folder.
    by_path: whether image paths are listed.
    k_core: see `interactions.shrink_to_core`.
    counts: of `accounts.account`.
  """
  lines, offenders = [], counts["offenders"]
  for part in ("rows", "titles", "images"):
    dropped = counts[part]["dropped"]
    for reason, number in sorted(dropped.items(), key=lambda pair: -pair[1]):
      shown = "; ".join(offenders.get(reason, ())[:_SHOWN])
      lines.append(f"{part}: {reason}: {number:,}, such as {shown}")
  if not counts["rows"]["read"]:
    lines.append(f"{interactions.path.name} has no rows")
  if not counts["images"]["read"]:
    lines.append(f"{root} has no files")
  dropped = counts["rows"]["dropped"]
  likely = _likely(
    db,
    max(dropped, key=dropped.get, default=""),
    interactions,
    titles,
    root,
    by_path,
    k_core,
  )
  return listed(
    f"nothing is left of {interactions.path}: expected users and items with "
    f"{k_core} events each, titles and images. {likely} What was dropped:",
    lines,
  )


def _likely(db, reason, interactions, titles, root, by_path, k_core):
  """Returns one likely cause of the commonest reason, a sentence or two."""
  rated = "SELECT DISTINCT item AS name FROM raw_rows WHERE reason IS NULL"
  column = interactions.roles.get
  if reason == "no_title":
    difference = _difference(db, rated, _TITLED)
    return (
      f"Items are called {_some(db, rated)} in {interactions.path.name} and "
      f"{_some(db, _TITLED)} in {titles.path.name}"
      + (f": they differ by {difference}." if difference else ".")
    )
  if reason in ("no_image", "image_outside_folder") and by_path:
    return _path_reason(db, root)
  if reason == "no_image":
    return (
      f"Files in {root} are named {_some(db, _FILES) or '(none)'}, items are "
      f"called {_some(db, rated)}. {_advice(_difference(db, _FILES, _TITLED))}"
    )
  return {
    "": "There are no interactions to read.",
    "malformed_row": (
      f"Lines of {interactions.path.name} are no rows of "
      f"{len(interactions.columns)} columns parted by "
      f"{interactions.delimiter!r}."
      if interactions.form != "jsonl"
      else f"Lines of {interactions.path.name} are no JSON objects."
    ),
    "missing_user": f"The column {column('user')!r} is empty.",
    "missing_item": f"The column {column('item')!r} is empty.",
    "bad_timestamp": (
      f"The column {column('timestamp')!r} holds no times: expected numbers "
      "since 1970, or dates such as 2020-01-02T03:04:05Z."
    ),
    "low_rating": "Ratings are lower than --min_rating: give a lower one.",
    "bad_rating": f"The column {column('rating')!r} holds no numbers.",
    "bad_image": "The images cannot be used; see the first.",
    "k_core": f"Too few events for --k_core={k_core}: give a lower one.",
  }.get(reason, "")


def _path_reason(db, root):
  """Says how image paths and the listing of the folder differ."""
  wanted = (
    "SELECT wanted AS name FROM items WHERE wanted <> '' AND path IS NULL"
  )
  files = "SELECT path AS id FROM files WHERE problem = ''"
  last = r"regexp_extract({}, '[^/\\]+$')"
  alike = duckdb_file.one(
    db,
    f"SELECT count(*) FROM ({wanted}) WHERE {last.format('name')} IN "
    f"(SELECT {last.format('id')} FROM ({files}))",
  )
  number = duckdb_file.one(db, f"SELECT count(*) FROM ({wanted})")
  text = (
    f"Listed are paths such as {_some(db, wanted)}, files in {root} are "
    f"{_some(db, files) or '(none)'}."
  )
  if number and alike > SHARE * number:
    return f"{text} Only the folders differ: list paths within {root.name}."
  difference = _difference(db, wanted, files)
  return f"{text} They differ by {difference}." if difference else text


def _difference(db, names, ids):
  """Returns what most names and ids that are not the same differ by, or ''.

  Args:
    db: the database.
    names: a query of `name`.
    ids: a query of `id`.
  """
  strange = f"SELECT name FROM ({names}) WHERE name NOT IN ({ids})"
  number = duckdb_file.one(db, f"SELECT count(*) FROM ({strange})")
  for words, name, value in _DIFFERENCES:
    found = duckdb_file.one(
      db,
      f"SELECT count(*) FROM ({strange}) WHERE {name} IN "
      f"(SELECT {value} FROM ({ids}))",
    )
    if number and found > SHARE * number:
      return words
  return ""


def _advice(difference):
  if difference:
    return f"They differ by {difference}: rename the files."
  return (
    "Rename the files like the items, or give their paths with --image_list."
  )


def _plain(role, column):
  """Returns SQL of an id as links.csv and others write it: 862, tt0114709."""
  if role == "imdbId":
    return f"ltrim(regexp_replace(lower({column}), '^tt', ''), '0')"
  return rf"regexp_replace({column}, '\.0+$', '')"


def _some(db, query) -> str:
  """Returns the first values of a query in words."""
  rows: Sequence[tuple[str]] = db.execute(
    f"SELECT * FROM ({query}) LIMIT {_SHOWN}"
  ).fetchall()
  return ", ".join(repr(value) for (value,) in rows)
