"""MovieLens: latest-small, 25m, 32m (csv with headers), 1m and 10m (dat)."""

from pathlib import Path

from genrec_jax.core.errors import UserError
from genrec_jax.ingest.readers.table import Table, find_file, open_table

_OTHER_IDS = ("imdbId", "tmdbId")  # columns of links.csv
# Files of 1m and 10m have no header: their README names the columns.
_RATINGS = ("UserID", "MovieID", "Rating", "Timestamp")
_MOVIES = ("MovieID", "Title", "Genres")
_ITEM = ("movieId", "id")  # without regard to case, see `table`


def tables(raw: Path) -> tuple[Table, Table]:
  """Returns the tables of interactions and of titles in a folder.

  Raises:
    UserError: a file or a column is missing.
  """
  for suffix, rating_columns, movie_columns in (
    (".csv", None, None),  # has a header
    (".dat", _RATINGS, _MOVIES),
  ):
    ratings_path = find_file(raw / f"ratings{suffix}")
    movies_path = find_file(raw / f"movies{suffix}")
    if ratings_path and movies_path:
      interactions = open_table(
        ratings_path,
        {
          "user": ("userId", "user"),
          "item": _ITEM,
          "rating": ("rating",),
          "timestamp": ("timestamp",),
        },
        required=("user", "item", "rating", "timestamp"),
        columns=rating_columns,
      )
      titles = open_table(
        movies_path,
        {"item": _ITEM, "title": ("title",)},
        required=("item", "title"),
        columns=movie_columns,
      )
      return interactions, titles
  raise UserError(
    f"{raw} holds no MovieLens data: expected ratings.csv and movies.csv, or "
    "ratings.dat and movies.dat. Give the folder of the unpacked archive."
  )


def other_ids(raw: Path) -> Table | None:
  """Returns the table of the films' ids elsewhere, if it is in the folder."""
  path = find_file(raw / "links.csv")
  if path is None:
    return None
  names = {"item": _ITEM, **{name: (name,) for name in _OTHER_IDS}}
  return open_table(path, names, required=("item",))
