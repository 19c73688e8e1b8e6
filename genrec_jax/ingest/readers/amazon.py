"""Amazon Reviews 2023: a category's reviews or benchmark csv, and its meta."""

from pathlib import Path

from genrec_jax.core.errors import UserError
from genrec_jax.ingest.readers import text_file
from genrec_jax.ingest.readers.table import Table, open_table

_ITEM = ("parent_asin", "asin")  # variants of a product share the first
_SUFFIXES = tuple(
  suffix + compressed
  for suffix in (".jsonl", ".csv")
  for compressed in ("", *text_file.SUFFIXES)
)


def tables(raw: Path) -> tuple[Table, Table]:
  """Returns the tables of interactions and of titles in a folder.

  Raises:
    UserError: not exactly one category, or a column is missing.
  """
  metas = {  # by category
    path.name.removeprefix("meta_").removesuffix(suffix): path
    for suffix in _SUFFIXES
    for path in sorted(raw.glob(f"meta_*{suffix}"))
  }
  reviews = {
    category: path
    for category in metas
    for suffix in _SUFFIXES  # the last one counts: csv is smaller
    if (path := raw / f"{category}{suffix}").is_file()
  }
  if len(reviews) != 1:  # a folder of several categories is no data set
    raise UserError(
      f"{raw} holds {len(reviews)} categories of Amazon Reviews 2023 "
      f"({', '.join(sorted(reviews)) or 'none'}): expected one, as "
      "CATEGORY.jsonl or CATEGORY.csv with meta_CATEGORY.jsonl, each also .gz."
    )
  (category, path), *_ = reviews.items()
  interactions = open_table(
    path,
    {
      "user": ("user_id",),
      "item": _ITEM,
      "rating": ("rating",),
      "timestamp": ("timestamp", "sort_timestamp"),
    },
    required=("user", "item", "timestamp"),
  )
  titles = open_table(
    metas[category],
    {"item": _ITEM, "title": ("title",)},
    required=("item", "title"),
  )
  return interactions, titles
