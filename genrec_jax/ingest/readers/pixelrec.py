"""PixelRec: `Pixel*.csv`, item first, and the item information."""

from pathlib import Path

from genrec_jax.ingest.readers import pairs
from genrec_jax.ingest.readers.source import Table

MIN_RATING = None
IMAGES = ("images", "cover", "covers")


def tables(raw: Path) -> tuple[Table, Table]:
  """Returns the tables of interactions and of titles in a folder.

  Raises:
    UserError: not exactly one of each, or a column is missing.
  """
  return pairs.tables(raw, "PixelRec", "Pixel200K.csv", "an item-info csv")
