"""The work folder of an import: what is finished of it, for a builder to store.

A work folder holds, when `job.make` has run,

    items.parquet   id string, title string, image string: in order of id;
                    `image` is a path relative to the images folder
    users.parquet   id string, first int64, length int64, train_end int64,
                    validation_start int64, test_start int64: in order of id;
                    a user's events are rows [first, first + length) of events
    events.parquet  user_row int64, item_row int64, timestamp int64: in order
                    of (user id, timestamp, item id)
    images/         encoded images in chunks, see `image_store.Store`
    report.json     what import_report.json will hold
    key             a hash of the raw data and the settings

Ids are strings, ordered by code point; timestamps are milliseconds since 1970.
A row is a position: `item_row` in items, `user_row` in users. Every item has an
image and a title, every user at least one event, no user an item twice.
"""

from collections.abc import Iterable, Iterator, Sequence
import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
import os
from pathlib import Path
import shutil
from typing import Any

import duckdb
import numpy as np

from genrec_jax.core import files
from genrec_jax.core.duckdb_file import pattern, quoted
from genrec_jax.core.errors import UserError
from genrec_jax.data.histories import History, Splits
from genrec_jax.ingest import image_store

ITEMS, USERS, EVENTS = "items.parquet", "users.parquet", "events.parquet"
REPORT, IMAGES, KEY = "report.json", "images", "key"
_BATCH = 65536  # rows, read at a time


@dataclasses.dataclass(frozen=True)
class Item:
  """An item as it is stored."""

  id: str
  title: str
  image: bytes  # JPEG, RGB


@dataclasses.dataclass(frozen=True)
class Work:
  """A finished work folder, opened; everything is read in pieces."""

  folder: Path
  settings: dict[str, Any]  # JSON; what decides the bytes of the data set

  @property
  def report(self) -> dict[str, Any]:
    """Returns what import_report.json is to hold."""
    return json.loads((self.folder / REPORT).read_text())

  def count(self, table: str) -> int:
    """Returns the number of rows of `ITEMS`, `USERS` or `EVENTS`."""
    ((number,),) = self._rows(f"SELECT count(*) FROM {self._of(table)}")
    return number

  def item_ids(self) -> list[str]:
    """Returns the ids of all items in the order of their rows."""
    return [item for (item,) in self._rows(f"SELECT id FROM {self._of(ITEMS)}")]

  def items(self, first: int = 0, stop: int | None = None) -> Iterator[Item]:
    """Yields the items of rows [first, stop), or to the end, in order."""
    store = image_store.Store(self.folder / IMAGES)
    # A Parquet file has an order, and DuckDB keeps it.
    query = f"SELECT id, title FROM {self._of(ITEMS)} OFFSET {first}"
    if stop is not None:
      query += f" LIMIT {stop - first}"
    for item, title in self._rows(query):
      yield Item(item, title, store[item])

  def items_at(self, rows: Sequence[int]) -> list[Item]:
    """Returns a few items, those of some rows in ascending order."""
    store = image_store.Store(self.folder / IMAGES)
    query = (
      f"SELECT id, title FROM read_parquet({self._of(ITEMS)}, "
      "file_row_number=true) "
      f"WHERE file_row_number IN ({', '.join(map(str, rows))}) "
      "ORDER BY file_row_number"
    )
    return [Item(item, title, store[item]) for item, title in self._rows(query)]

  def histories(self) -> Iterator[tuple[History, np.ndarray]]:
    """Yields users' histories and the rows of their items: [L] int64.

    In the order of the users' rows.
    """
    ids = self.item_ids()
    # Both tables are in the order of users, so one pass over each will do.
    events = self._rows(f"SELECT item_row, timestamp FROM {self._of(EVENTS)}")
    query = (
      f"SELECT id, length, {', '.join(Splits._fields)} FROM {self._of(USERS)}"
    )
    for user, length, *splits in self._rows(query):
      rows, times = zip(*itertools.islice(events, length), strict=True)
      items = tuple(ids[row] for row in rows)
      timestamps = np.asarray(times, np.int64)  # [L]
      history = History(user, items, timestamps, Splits(*splits))
      yield history, np.asarray(rows, np.int64)  # [L]

  def titles(self, batch: int) -> Iterator[list[str]]:
    """Yields the titles of some items at a time, in the order of their rows."""
    rows = self._rows(f"SELECT title FROM {self._of(ITEMS)}")
    while titles := [title for (title,) in itertools.islice(rows, batch)]:
      yield titles

  def rows_of_users(
    self, batch: int
  ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields lengths [u], splits [u, 3] and item rows [events] of u users.

    As `index.write` takes them, `batch` users at a time.
    """
    with duckdb.connect() as connection:
      for start in range(0, self.count(USERS), batch):
        users = connection.execute(
          f"SELECT length, {', '.join(Splits._fields)} FROM {self._of(USERS)}"
          f" LIMIT {batch} OFFSET {start}"
        ).fetchnumpy()
        lengths = users.pop("length")  # [u]
        rows = connection.execute(
          f"SELECT item_row FROM {self._of(EVENTS)} WHERE user_row >= {start}"
          f" AND user_row < {start + batch}"
        ).fetchnumpy()["item_row"]  # [events]
        splits = np.stack(list(users.values()), axis=1)  # [u, 3]
        yield lengths, splits, rows

  def _rows(self, query: str) -> Iterator[tuple]:
    with duckdb.connect() as connection:
      rows = connection.execute(query)
      while batch := rows.fetchmany(_BATCH):
        yield from batch

  def _of(self, name: str) -> str:
    return quoted(pattern(self.folder / name))


@contextlib.contextmanager
def claim(out: Path) -> Iterator[Path]:
  """Makes the work folder of a data set, for this process only.

  It is next to `out` and removed at the end; where the import is stopped it
  stays, and the next import goes on with it.

  Args:
    out: the data set to be.

  Raises:
    UserError: it cannot be made, or another process has it.
  """
  folder = out.with_name(f".{out.name}.work")
  try:
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
  except OSError as error:
    raise UserError(
      f"--out={out}: cannot write next to it ({error.strerror}): choose another"
    ) from None
  # The system lets go of the lock when the process ends, however it ends.
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    os.close(lock)
    raise UserError(
      f"another import to {out} is running: wait for it, or choose another"
      " --out"
    ) from None
  try:
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
  except UserError:
    if not any(folder.glob("*/*.json")):  # no images, which take the time
      shutil.rmtree(folder, ignore_errors=True)
    raise
  finally:
    os.close(lock)


def keep_if_same(folder: Path, key: Iterable[Any]) -> None:
  """Empties a work folder that was made of other data or with other settings.

  Args:
    folder: of the work.
    key: parts that stand for the data and the settings by their `repr`.
  """
  digest = hashlib.sha256()
  for part in key:  # piece by piece: the listing may be of millions of files
    digest.update(repr(part).encode())
  text, path = digest.hexdigest(), folder / KEY
  if path.exists() and path.read_text() == text:
    return
  (folder / REPORT).unlink(missing_ok=True)
  if (folder / IMAGES).exists():
    shutil.rmtree(folder / IMAGES)
  # Last: until all is removed, the old key stands for what is there.
  files.write(path, text)
