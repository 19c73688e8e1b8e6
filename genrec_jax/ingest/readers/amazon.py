"""Amazon Reviews 2023: a category's reviews or benchmark csv, and its meta."""

from pathlib import Path

from genrec_jax.core.errors import UserError
from genrec_jax.ingest.readers import opening
from genrec_jax.ingest.readers.source import Table, find

MIN_RATING = None
IMAGES = ("images",)
_ITEM = ("parent_asin", "asin")
_FORMS = tuple(
  form + ending
  for form in (".jsonl", ".csv")
  for ending in ("", *opening.ENDINGS)
)


def tables(raw: Path) -> tuple[Table, Table]:
  """Returns the tables of interactions and of titles in a folder.

  Raises:
    UserError: not exactly one category, or a column is missing.
  """
  metas = {
    path.name.removeprefix("meta_").removesuffix(form): path
    for form in _FORMS
    for path in sorted(raw.glob(f"meta_*{form}"))
  }
  reviews = {
    category: path
    for category in metas
    for form in _FORMS  # the last one found counts: csv is smaller
    if (path := raw / f"{category}{form}").is_file()
  }
  if len(reviews) != 1:
    raise UserError(
      f"{raw} holds {len(reviews)} categories of Amazon Reviews 2023 "
      f"({', '.join(sorted(reviews)) or 'none'}): expected one, as "
      "CATEGORY.jsonl or CATEGORY.csv with meta_CATEGORY.jsonl, each also .gz."
    )
  (category, path), *_ = reviews.items()
  interactions = find(
    path,
    {
      "user": ("user_id",),
      "item": _ITEM,
      "rating": ("rating",),
      "timestamp": ("timestamp", "sort_timestamp"),
    },
    required=("user", "item", "timestamp"),
  )
  titles = find(
    metas[category],
    {"item": _ITEM, "title": ("title",)},
    required=("item", "title"),
  )
  return interactions, titles
