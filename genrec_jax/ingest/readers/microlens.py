"""MicroLens: `MicroLens-*_pairs.csv` and `MicroLens-*_titles.csv`."""

from pathlib import Path

from genrec_jax.ingest.readers import pairs
from genrec_jax.ingest.readers.source import Table

MIN_RATING = None
IMAGES = ("images", "covers", "cover")


def tables(raw: Path) -> tuple[Table, Table]:
  """Returns the tables of interactions and of titles in a folder.

  Raises:
    UserError: not exactly one of each, or a column is missing.
  """
  return pairs.tables(
    raw, "MicroLens", "MicroLens-50k_pairs.csv", "MicroLens-50k_titles.csv"
  )
