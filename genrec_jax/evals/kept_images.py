"""images.parquet: what the first users liked, and what each row shows them.

A user study (tools/study.py) asks people about these images, without a model.
A line for each image: user, row ('history' or a row of the table), place (in
the history, oldest first; 0 otherwise), title (null: unknown) and png.
"""

from collections.abc import Mapping, Sequence
import io
import itertools
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
from PIL import Image

from genrec_jax.core import duckdb_file, files
from genrec_jax.core.errors import UserError
from genrec_jax.evals.catalogue import Catalogue
from genrec_jax.evals.held_out import HeldOutBatch

FILE = "images.parquet"
HISTORY = "history"  # no row of the table has this name


class KeptUser(NamedTuple):
  """What a user liked, and an image of each row; all uint8 [h, w, 3]."""

  name: str
  history: tuple[np.ndarray, ...]  # oldest first
  titles: tuple[str, ...]  # of the history; '': unknown
  images: Mapping[str, np.ndarray]  # by row


def of_items(
  items: Mapping[str, np.ndarray], catalogue: Catalogue, users: int
) -> dict[str, np.ndarray]:
  """Returns the images of items that rows show the first users.

  Args:
    items: {row: [U, G] int}, numbers of items; a user's first is kept.
    catalogue: every item's image, uint8 [h, w, 3].
    users: at most.

  Returns:
    {row: uint8 [users, h, w, 3]}.
  """
  return {
    row: np.stack([catalogue[int(i)] for i in numbers[:users, 0]])
    for row, numbers in items.items()
  }


def write(
  workdir: str,
  batches: Sequence[HeldOutBatch],
  images: Mapping[str, np.ndarray],
) -> None:
  """Writes images.parquet of as many users as all rows have images of.

  Args:
    workdir: an existing folder.
    batches: held-out users.
    images: {row: uint8 [U, h, w, 3]} of the first users; nothing of none.
  """
  count = min((len(rows) for rows in images.values()), default=0)
  if not count:
    return
  places = ((held, row) for held in batches for row in range(held.count))
  lines: list[tuple[str, str, int, str | None, bytes]] = []
  for number, (held, row) in enumerate(itertools.islice(places, count)):
    name = held.names[row]
    real = np.asarray(held.batch.history_mask[row], bool)  # [N]
    history = np.asarray(held.batch.history[row])[real]  # [n, h, w, 3]
    titles: list[str | None] = [None] * len(history)
    if held.history_titles:
      # Of a prompt that was too long the oldest items were left out.
      known = held.history_titles[row]
      titles = list(known[len(known) - len(history) :])
    for place, (image, title) in enumerate(zip(history, titles, strict=True)):
      lines.append((name, HISTORY, place, title, _png(image)))
    for shown, rows in images.items():
      lines.append((name, shown, 0, None, _png(rows[number])))
  columns = dict(
    zip(
      ("user", "row", "place", "title", "png"),
      map(_objects, zip(*lines, strict=True)),
      strict=True,
    )
  )
  with (
    files.replacing(Path(workdir, FILE)) as partial,
    duckdb.connect() as db,
    duckdb_file.registered(db, columns),
  ):
    query = 'SELECT "user", "row", place::int place, title, png FROM given'
    duckdb_file.copy(db, query, partial)


def read(workdir: str) -> list[KeptUser]:
  """Returns the users of a workdir's images.parquet, in its order.

  Raises:
    UserError: the workdir has none.
  """
  path = Path(workdir, FILE)
  if not path.is_file():
    raise UserError(
      f"{workdir} has no {FILE}: expected the workdir of a finished run or"
      " evaluation with eval.keep_images above 0; evaluate it anew with"
      " configs/evaluate.py"
    )
  with duckdb.connect() as db:
    found = db.execute(
      'SELECT "user", "row", title, png FROM ' + duckdb_file.parquet(path)
    ).fetchall()
  users = []
  # Lines of a user stand together, its history in order.
  for name, lines in itertools.groupby(found, key=lambda line: line[0]):
    history, titles, images = [], [], {}
    for _, row, title, png in lines:
      image = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
      if row == HISTORY:
        history.append(image)
        titles.append(title or "")
      else:
        images[row] = image
    users.append(KeptUser(name, tuple(history), tuple(titles), images))
  return users


def _objects(values: Sequence) -> np.ndarray:
  """Returns a column of objects: NumPy cuts zeros off the ends of bytes."""
  column = np.empty(len(values), object)
  column[:] = values
  return column


def _png(image: np.ndarray) -> bytes:
  """Returns an image uint8 [h, w, 3] as PNG: people see each pixel as it is."""
  data = io.BytesIO()
  Image.fromarray(image).save(data, "PNG", compress_level=1)
  return data.getvalue()
