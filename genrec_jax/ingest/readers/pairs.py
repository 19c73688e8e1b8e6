"""Data sets of two csv files that only their headers tell apart."""

from pathlib import Path

from genrec_jax.core.errors import UserError
from genrec_jax.ingest.readers import opening
from genrec_jax.ingest.readers.source import Table, find

_ITEM = ("item", "item_id", "video_id", "id")
_NAMES = {
  "user": ("user", "user_id"),
  "item": _ITEM,
  "timestamp": ("timestamp", "time"),
}


def tables(
  raw: Path, name: str, interactions: str, titles: str
) -> tuple[Table, Table]:
  """Returns the tables of interactions and of titles in a folder.

  Args:
    raw: the folder.
    name: of the data set, for messages.
    interactions: what that file is usually called, for messages.
    titles: the same.

  Raises:
    UserError: not exactly one of each, or a column is missing.
  """
  found: dict[str, list[Table]] = {"interactions": [], "titles": []}
  endings = ("", *opening.ENDINGS)
  for path in sorted(p for e in endings for p in raw.glob(f"*.csv{e}")):
    table = find(path, {**_NAMES, "title": ("title",)}, required=())
    if table.has("title"):
      found["titles"].append(table)
    elif table.has("user") and table.has("timestamp"):
      found["interactions"].append(table)
  if any(len(files) != 1 for files in found.values()):
    here = ", ".join(
      f"{kind}: {', '.join(table.path.name for table in files) or 'none'}"
      for kind, files in found.items()
    )
    raise UserError(
      f"{raw} holds no single {name} data set ({here}): expected one csv of "
      f"users, items and timestamps, like {interactions}, and one of items and "
      f"titles, like {titles}. Move other files away."
    )
  return (
    find(found["interactions"][0].path, _NAMES, required=tuple(_NAMES)),
    find(
      found["titles"][0].path,
      {"item": _ITEM, "title": ("title",)},
      required=("item", "title"),
    ),
  )
