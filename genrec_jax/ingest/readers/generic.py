"""Any other data set: two tables whose columns are named by flags."""

from collections.abc import Mapping
from pathlib import Path

from genrec_jax.core.errors import UserError
from genrec_jax.ingest.readers.table import (
  EXPECTED,
  Table,
  format_of,
  open_table,
)

# In the order of messages about missing columns.
_EVENT_ROLES = ("user", "item", "timestamp", "rating")
_ITEM_ROLES = ("item", "title", "image")
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
    if format_of(raw / name) == "dat":  # has no names of columns
      raise UserError(
        f"{raw / name} is no table: {EXPECTED.replace(' .dat,', '')}."
      )
  # A column that is named must be there; one that is not is not looked for.
  given = {role: (name,) for role, name in columns.items() if name}
  events = {role: given[role] for role in _EVENT_ROLES if role in given}
  items = {role: given[role] for role in _ITEM_ROLES if role in given}
  # Shops call an item `sku` where it is ordered and `id` where it is listed.
  items["item"] = given.get("title_item", given["item"])
  return (
    open_table(
      raw / interactions, events, required=tuple(events), advice=_ADVICE
    ),
    open_table(raw / titles, items, required=tuple(items), advice=_ADVICE),
  )
