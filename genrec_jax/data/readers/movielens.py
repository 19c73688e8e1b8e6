"""MovieLens: latest-small, 25m, 32m (csv with headers), 1m and 10m (dat)."""

from pathlib import Path

from genrec_jax.core.errors import UserError
from genrec_jax.data.readers.source import Table, find

MIN_RATING = 4.0
IMAGES = ("images", "posters")
_RATINGS = ("UserID", "MovieID", "Rating", "Timestamp")
_MOVIES = ("MovieID", "Title", "Genres")
_ITEM = ("movieId", "id")


def tables(raw: Path) -> tuple[Table, Table]:
  """Returns the tables of interactions and of titles in a folder.

  Raises:
    UserError: a file or a column is missing.
  """
  for suffix, ratings, movies in (
    (".csv", None, None),
    (".csv.gz", None, None),
    (".dat", _RATINGS, _MOVIES),
  ):
    paths = raw / f"ratings{suffix}", raw / f"movies{suffix}"
    if all(path.is_file() for path in paths):
      interactions = find(
        paths[0],
        {
          "user": ("userId", "user"),
          "item": _ITEM,
          "rating": ("rating",),
          "timestamp": ("timestamp",),
        },
        required=("user", "item", "rating", "timestamp"),
        columns=ratings,
      )
      titles = find(
        paths[1],
        {"item": _ITEM, "title": ("title",)},
        required=("item", "title"),
        columns=movies,
      )
      return interactions, titles
  raise UserError(
    f"{raw} holds no MovieLens data: expected ratings.csv and movies.csv, or "
    "ratings.dat and movies.dat. Give the folder of the unpacked archive."
  )
