"""What an import leaves in its work folder, for a builder to store.

A work folder, when `finish` has run, holds

    items.parquet   id string, title string, image string: in order of id;
                    `image` is a path relative to the images folder
    users.parquet   id string, first int64, length int64, train_end int64,
                    validation_start int64, test_start int64: in order of id;
                    a user's events are rows [first, first + length) of events
    events.parquet  user_row int64, item_row int64, timestamp int64: in order
                    of (user id, timestamp, item id)
    images/         encoded images in chunks, see `images.Store`
    report.json     what import_report.json will hold

Ids are strings, ordered by code point; timestamps are milliseconds since 1970.
A row is a position: `item_row` in items, `user_row` in users. Every item has an
image and a title, every user at least one event, no user an item twice.
"""

from collections.abc import Iterator
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from genrec_jax.data import images
from genrec_jax.data.histories import History

ITEMS, USERS, EVENTS = "items.parquet", "users.parquet", "events.parquet"
REPORT, IMAGES = "report.json", "images"
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

  def item_ids(self) -> list[str]:
    """Returns the ids of all items in the order of their rows."""
    return [item for (item,) in self._rows(f"SELECT id FROM {self._of(ITEMS)}")]

  def items(self) -> Iterator[Item]:
    """Yields all items in the order of their rows."""
    store = images.Store(self.folder / IMAGES)
    query = f"SELECT id, title FROM {self._of(ITEMS)}"
    for item, title in self._rows(query):
      yield Item(item, title, store[item])

  def histories(self) -> Iterator[tuple[History, np.ndarray]]:
    """Yields users' histories and the rows of their items: [L] int64.

    In the order of the users' rows.
    """
    ids = self.item_ids()
    events = self._rows(f"SELECT item_row, timestamp FROM {self._of(EVENTS)}")
    query = (
      "SELECT id, length, train_end, validation_start, test_start "
      f"FROM {self._of(USERS)}"
    )
    for user, length, *points in self._rows(query):
      rows, times = zip(*itertools.islice(events, length), strict=True)
      items = tuple(ids[row] for row in rows)
      history = History(user, items, np.asarray(times, np.int64), *points)
      yield history, np.asarray(rows, np.int64)

  def _rows(self, query: str) -> Iterator[tuple]:
    with duckdb.connect() as connection:
      rows = connection.execute(query)
      while batch := rows.fetchmany(_BATCH):
        yield from batch

  def _of(self, name: str) -> str:
    path = str(self.folder / name).replace("'", "''")
    return f"'{path}'"
