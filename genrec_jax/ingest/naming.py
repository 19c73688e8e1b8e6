"""Names of files and ids of items that should be the same: how they differ.

Everything here is a query of the database and returns words for a person.
"""

from pathlib import Path

from genrec_jax.core import duckdb_file
from genrec_jax.core.duckdb_file import Connection

SHARE = 0.5  # of names that match nothing, above which something is wrong
_SHOWN = 3  # values
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
# Names of the image files, and ids of the items that have a title.
FILES = "SELECT stem AS name FROM files WHERE problem = ''"
TITLED = "SELECT DISTINCT item AS id FROM raw_titles WHERE item <> ''"


def of_paths(db: Connection, root: Path) -> str:
  """Returns how listed image paths and the files of the folder differ."""
  wanted = (
    "SELECT wanted AS name FROM items WHERE wanted <> '' AND path IS NULL"
  )
  files = "SELECT path AS id FROM files WHERE problem = ''"
  last = r"regexp_extract({}, '[^/\\]+$')"
  # Paths of which a file of the same name is somewhere in the folder.
  alike = duckdb_file.one(
    db,
    f"SELECT count(*) FROM ({wanted}) WHERE {last.format('name')} IN "
    f"(SELECT {last.format('id')} FROM ({files}))",
  )
  number = duckdb_file.one(db, f"SELECT count(*) FROM ({wanted})")
  text = (
    f"Listed are paths such as {some(db, wanted)}, files in {root} are "
    f"{some(db, files) or '(none)'}."
  )
  if number and alike > SHARE * number:
    return f"{text} Only the folders differ: list paths within {root.name}."
  words = between(db, wanted, files)
  return f"{text} They differ by {words}." if words else text


def between(db: Connection, names: str, ids: str) -> str:
  """Returns what most names that are no id differ from one by, or ''.

  Args:
    db: the database.
    names: a query of `name`.
    ids: a query of `id`.
  """
  # Each difference in turn: the first that explains most names is the cause.
  strange = f"SELECT name FROM ({names}) WHERE name NOT IN ({ids})"
  number = duckdb_file.one(db, f"SELECT count(*) FROM ({strange})")
  for words, name, value in _DIFFERENCES:
    explained = duckdb_file.one(
      db,
      f"SELECT count(*) FROM ({strange}) WHERE {name} IN "
      f"(SELECT {value} FROM ({ids}))",
    )
    if number and explained > SHARE * number:
      return words
  return ""


def of_names(db: Connection) -> str:
  """Returns how image files and items are named differently, and what to do."""
  words = between(db, FILES, TITLED)
  if words:
    return f"They differ by {words}: rename the files."
  return (
    "Rename the files like the items, or give their paths with --image_list."
  )


def some(db: Connection, query: str) -> str:
  """Returns the first values of a query, '' if it has none."""
  rows = db.execute(f"SELECT * FROM ({query}) LIMIT {_SHOWN}").fetchall()
  return ", ".join(repr(value) for (value,) in rows)
