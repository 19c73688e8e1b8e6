"""Any other data set: two tables whose columns are named by flags."""

from collections.abc import Mapping
from pathlib import Path

from genrec_jax.core.errors import UserError
from genrec_jax.ingest.readers.source import EXPECTED, Table, find, form_of

MIN_RATING = None
IMAGES = ("images",)
_ITEMS = ("item", "title", "image")
_ADVICE = "Give the names as flags, such as --user_column."


def tables(
  raw: Path, interactions: str, titles: str, columns: Mapping[str, str]
) -> tuple[Table, Table]:
  """Returns the tables of interactions and of titles.

  Args:
    raw: the folder.
    interactions: name of the file of users, items and timestamps in it.
    titles: of the file of items and titles.
    columns: by role, 'user', 'item', 'timestamp', 'rating', 'title', 'image',
      the name of the column; `rating` and `image` may be left out or ''. The
      item may have another name in the titles, given as 'title_item'.

  Raises:
    UserError: a file or a column is missing.
  """
  for name in (interactions, titles):
    if not (raw / name).exists():
      raise UserError(f"{raw / name} is not there: expected a file in --raw.")
    if form_of(raw / name) == "dat":
      raise UserError(
        f"{raw / name} is no table: {EXPECTED.replace(' .dat,', '')}."
      )
  given = {role: (name,) for role, name in columns.items() if name}
  item = given.get("title_item", given["item"])
  first = [
    role for role in ("user", "item", "timestamp", "rating") if role in given
  ]
  second = [role for role in _ITEMS if role in given]
  return (
    find(
      raw / interactions,
      {r: given[r] for r in first},
      required=first,
      advice=_ADVICE,
    ),
    find(
      raw / titles,
      {r: item if r == "item" else given[r] for r in second},
      required=second,
      advice=_ADVICE,
    ),
  )
