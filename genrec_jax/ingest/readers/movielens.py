"""MovieLens: latest-small, 25m, 32m (csv with headers), 1m and 10m (dat)."""

from pathlib import Path

from genrec_jax.core.errors import UserError
from genrec_jax.ingest.readers.source import Table, find, packed

MIN_RATING = 4.0
IMAGES = ("images", "posters")
OTHER_IDS = ("imdbId", "tmdbId")  # columns of links.csv
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
    (".dat", _RATINGS, _MOVIES),
  ):
    paths = packed(raw / f"ratings{suffix}"), packed(raw / f"movies{suffix}")
    if all(paths):
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


def other_ids(raw: Path) -> Table | None:
  """Returns the table of the films' ids elsewhere, if it is in the folder."""
  path = packed(raw / "links.csv")
  if path is None:
    return None
  names = {"item": _ITEM, **{name: (name,) for name in OTHER_IDS}}
  return find(path, names, required=("item",))
