"""The error of an import that keeps nothing: counts, examples, a cause."""

from collections.abc import Mapping
from typing import Any

from genrec_jax.core.duckdb_file import Connection
from genrec_jax.core.errors import listed
from genrec_jax.ingest import naming
from genrec_jax.ingest.naming import FILES, TITLED
from genrec_jax.ingest.raw_data import Raw

_SHOWN = 3  # examples of each reason


def message(
  db: Connection,
  raw: Raw,
  *,
  by_path: bool,
  k_core: int,
  counts: Mapping[str, Any],
) -> str:
  """Returns the error message for an import of which no event is left.

  Args:
    db: the database.
    raw: what was read.
    by_path: whether image paths are listed.
    k_core: see `k_core.shrink`.
    counts: see `drops.count_drops`.
  """
  lines, examples = [], counts["offenders"]  # the report's word
  for part in ("rows", "titles", "images"):
    dropped = counts[part]["dropped"]
    for reason, number in sorted(dropped.items(), key=lambda pair: -pair[1]):
      shown = "; ".join(examples.get(reason, ())[:_SHOWN])
      lines.append(f"{part}: {reason}: {number:,}, such as {shown}")
  # Nothing read is nothing dropped, so no reason says it.
  if not counts["rows"]["read"]:
    lines.append(f"{raw.interactions.path.name} has no rows")
  if not counts["images"]["read"]:
    lines.append(f"{raw.images} has no files")
  # One cause, of the commonest reason: the rest mostly follows from it.
  dropped = counts["rows"]["dropped"]
  commonest = max(dropped, key=dropped.get, default="")
  cause = _cause_in_names(db, commonest, raw, by_path) or _cause_in_rows(
    commonest, raw.interactions, k_core
  )
  return listed(
    f"nothing is left of {raw.interactions.path}: expected users and items "
    f"with {k_core} events each, titles and images. {cause} What was dropped:",
    lines,
  )


def _cause_in_names(db, reason, raw, by_path):
  """Returns how ids of the tables or names of files differ.

  '' if the reason has nothing to do with names.
  """
  # Ids of the interactions that can be read, as if they were names of files.
  rated = "SELECT DISTINCT item AS name FROM raw_events WHERE reason IS NULL"
  if reason == "no_title":
    words = naming.between(db, rated, TITLED)
    return (
      f"Items are called {naming.some(db, rated)} in "
      f"{raw.interactions.path.name} and {naming.some(db, TITLED)} in "
      f"{raw.titles.path.name}"
      + (f": they differ by {words}." if words else ".")
    )
  if reason in ("no_image", "image_outside_folder") and by_path:
    return naming.of_paths(db, raw.images)
  if reason == "no_image":
    return (
      f"Files in {raw.images} are named {naming.some(db, FILES) or '(none)'}, "
      f"items are called {naming.some(db, rated)}. {naming.of_names(db)}"
    )
  return ""


def _cause_in_rows(reason, interactions, k_core):
  """Returns a likely cause of a reason that rows are dropped for."""
  column = interactions.roles.get  # its name in the file, as the user knows it
  name = interactions.path.name
  if reason == "malformed_row":
    if interactions.format == "jsonl":
      return f"Lines of {name} are no JSON objects."
    return (
      f"Lines of {name} are no rows of {len(interactions.columns)} columns "
      f"separated by {interactions.delimiter!r}."
    )
  return {
    "": "There are no interactions to read.",
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
