"""Two csv files, interactions and titles, recognised by their headers."""

from pathlib import Path

from genrec_jax.core.errors import UserError
from genrec_jax.ingest.readers import text_file
from genrec_jax.ingest.readers.table import Table, open_table

# Names of columns in the releases of both data sets.
_ITEM = ("item", "item_id", "video_id", "id")
_NAMES = {
  "user": ("user", "user_id"),
  "item": _ITEM,
  "timestamp": ("timestamp", "time"),
}


def tables(
  raw: Path, *, name: str, interactions: str, titles: str
) -> tuple[Table, Table]:
  """Returns the tables of interactions and of titles in a folder.

  Args:
    raw: the folder.
    name: of the data set, for messages.
    interactions: usual name of the file of interactions, for messages.
    titles: usual name of the file of titles.

  Raises:
    UserError: not exactly one of each, or a column is missing.
  """
  candidates: dict[str, list[Table]] = {"interactions": [], "titles": []}
  suffixes = ("", *text_file.SUFFIXES)
  for path in sorted(p for s in suffixes for p in raw.glob(f"*.csv{s}")):
    # Titles may come with other columns; interactions have no title.
    table = open_table(path, {**_NAMES, "title": ("title",)}, required=())
    if table.has("title"):
      candidates["titles"].append(table)
    elif table.has("user") and table.has("timestamp"):
      candidates["interactions"].append(table)
  # None of a kind, or several samples of the data set in one folder.
  if any(len(files) != 1 for files in candidates.values()):
    here = ", ".join(
      f"{kind}: {', '.join(table.path.name for table in files) or 'none'}"
      for kind, files in candidates.items()
    )
    raise UserError(
      f"{raw} holds no single {name} data set ({here}): expected one csv of "
      f"users, items and timestamps, like {interactions}, and one of items and "
      f"titles, like {titles}. Move other files away."
    )
  # Again, now that a column that is missing is an error.
  return (
    open_table(
      candidates["interactions"][0].path, _NAMES, required=tuple(_NAMES)
    ),
    open_table(
      candidates["titles"][0].path,
      {"item": _ITEM, "title": ("title",)},
      required=("item", "title"),
    ),
  )
