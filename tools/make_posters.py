"""Makes stand-ins for the posters of a MovieLens folder, from genres and years.

    python tools/make_posters.py --raw=ml-latest-small --out=posters

MovieLens has no images. With these every command can be tried on its users and
titles: a poster is an image of the synthetic world whose shape and colour stand
for a film's first and last genre, and whose texture for its decade; the rest is
by chance, but the same at every call. It tells nothing else of the film, and
numbers that are computed with such images tell nothing of films.
"""

import csv
from pathlib import Path
import re
import zlib

from absl import flags
from PIL import Image

from genrec_jax.core import files
from genrec_jax.core.errors import UserError
from genrec_jax.data import world
from genrec_jax.runtime import cli, path_flags

_RAW = path_flags.path_flag(
  "raw", None, "Folder that has MovieLens's movies.csv.", required=True
)
_OUT = path_flags.path_flag(
  "out", None, "Folder to write, absent or empty.", required=True
)
_SCALE = flags.DEFINE_integer(
  "scale", 2, "Side of the images, times 32 pixels.", lower_bound=1
)

GENRES = (  # MovieLens's, in the order of its README
  "Action",
  "Adventure",
  "Animation",
  "Children",
  "Comedy",
  "Crime",
  "Documentary",
  "Drama",
  "Fantasy",
  "Film-Noir",
  "Horror",
  "IMAX",
  "Musical",
  "Mystery",
  "Romance",
  "Sci-Fi",
  "Thriller",
  "War",
  "Western",
)


def main() -> None:
  """Renders a poster for every film."""
  path = Path(_RAW.value, "movies.csv")
  if not path.is_file():
    raise UserError(
      f"no movies.csv in {path.parent}: expected the folder of MovieLens's"
      " archive; give it with --raw=DIR"
    )
  with path.open(encoding="utf-8", newline="") as file:
    films = list(csv.DictReader(file))
  missing = {"movieId", "title", "genres"} - set(films[0] if films else ())
  if missing:
    raise UserError(
      f"{path} has no column {', '.join(sorted(missing))}: expected MovieLens's"
      " movieId, title and genres; give the folder of its archive"
    )
  side = _SCALE.value * world.IMAGE_SIZE
  with files.new_folder(_OUT.value) as folder:
    for film in films:
      poster = Image.fromarray(
        world.render(attributes(film["movieId"], film["title"], film["genres"]))
      )
      # Enlarged pixel by pixel: shrunk again, it is what was rendered.
      poster = poster.resize((side, side), Image.Resampling.NEAREST)
      poster.save(folder / f"{film['movieId']}.png")
  print(f"{len(films)} stand-ins for posters in {_OUT.value}")


def attributes(movie: str, title: str, genres: str) -> tuple[int, ...]:
  """Returns the five attributes of a poster, as `data/world.py` numbers them.

  Args:
    movie: its id.
    title: with the year in brackets at its end, if known.
    genres: names with '|' between them.
  """
  known = [GENRES.index(name) for name in genres.split("|") if name in GENRES]
  year = re.search(r"\((\d{4})\)\s*$", title)
  # Not hash(): that differs from one process to the next.
  chance = zlib.crc32(movie.encode())
  shape, colour, texture, background, size = world.COUNTS
  return (
    (known[0] if known else chance) % shape,
    (known[-1] if known else chance) % colour,
    (int(year[1]) // 10 if year else chance) % texture,
    chance % background,
    chance // background % size,
  )


if __name__ == "__main__":
  cli.run(main)
