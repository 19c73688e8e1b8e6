"""What an import leaves in its work folder, for a builder to store.

A work folder, when `finish` has run, holds

    items.parquet   id string, title string, image string: in order of id;
                    `image` is a path relative to the images folder
    users.parquet   id string, first int64, length int64, train_end int64,
                    validation_start int64, test_start int64: in order of id;
                    a user's events are rows [first, first + length) of events
    events.parquet  user_row int64, item_row int64, timestamp int64: in order
                    of (user id, timestamp, item id)
    images/         encoded images in chunks, see `image_store.Store`
    report.json     what import_report.json will hold

Ids are strings, ordered by code point; timestamps are milliseconds since 1970.
A row is a position: `item_row` in items, `user_row` in users. Every item has an
image and a title, every user at least one event, no user an item twice.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
from pathlib import Path
import shutil
from typing import Any

import duckdb
import numpy as np

from genrec_jax.core import duckdb_file, files
from genrec_jax.core.duckdb_file import quoted
from genrec_jax.core.errors import UserError
from genrec_jax.data import images
from genrec_jax.data.histories import History, Splits
from genrec_jax.ingest import clean as interactions
from genrec_jax.ingest import drops, image_files, image_store, mismatch
from genrec_jax.ingest.readers.source import Table, literal

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

  def item_ids(self) -> list[str]:
    """Returns the ids of all items in the order of their rows."""
    return [item for (item,) in self._rows(f"SELECT id FROM {self._of(ITEMS)}")]

  def items(self, first: int = 0, stop: int | None = None) -> Iterator[Item]:
    """Yields the items of rows [first, stop), or to the end, in order."""
    store = image_store.Store(self.folder / IMAGES)
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
    events = self._rows(f"SELECT item_row, timestamp FROM {self._of(EVENTS)}")
    query = (
      f"SELECT id, length, {', '.join(Splits._fields)} FROM {self._of(USERS)}"
    )
    for user, length, *splits in self._rows(query):
      rows, times = zip(*itertools.islice(events, length), strict=True)
      items = tuple(ids[row] for row in rows)
      timestamps = np.asarray(times, np.int64)  # [L]
      history = History(user, items, timestamps, Splits(*splits))
      yield history, np.asarray(rows, np.int64)

  def _rows(self, query: str) -> Iterator[tuple]:
    with duckdb.connect() as connection:
      rows = connection.execute(query)
      while batch := rows.fetchmany(_BATCH):
        yield from batch

  def _of(self, name: str) -> str:
    return quoted(literal(self.folder / name))


@dataclasses.dataclass(frozen=True)
class Raw:
  """What an import reads."""

  interactions: Table
  titles: Table
  images: Path  # the folder
  paths: Table | None = None  # of the images by item, if not by file name
  other_ids: Table | None = None  # of the items, that files may be named by

  @functools.cached_property
  def files(self) -> list[image_files.File]:
    """What is in the images folder; listed once, which can take minutes."""
    return list(image_files.listing(self.images))


def settings(
  raw: Raw,
  *,
  dataset: str,
  min_rating: float | None,
  k_core: int,
  future_horizon: int,
  image_size: int,
) -> dict[str, Any]:
  """Returns what decides the bytes of a prepared data set, as JSON.

  The raw files enter by name and size; of the images, which may be millions,
  their number and total size.
  """
  tables = (raw.interactions, raw.titles, raw.paths)
  files = [file for file in raw.files if not file.problem]
  return {
    "dataset": dataset,
    "min_rating": min_rating,
    "k_core": k_core,
    "future_horizon": future_horizon,
    "image_size": image_size,
    "raw": {
      table.path.name: sum(file.stat().st_size for file in table.files)
      for table in tables
      if table
    },
    "images": [len(files), sum(file.size for file in files)],
  }


def make(
  raw: Raw,
  work: Path,
  settings: dict[str, Any],
  *,
  processes: int,
  memory_gb: float,
  spread: Callable[..., None] | None = None,
  tell: Callable[[str], None] = lambda step: None,
) -> Work:
  """Reads, filters, orders and splits raw data; encodes the images.

  Args:
    raw: what to read.
    work: a folder that is this import's own. What a stopped import of the same
      data left there is used again.
    settings: see `settings`.
    processes: for images, and threads for tables.
    memory_gb: that tables may take; beyond it they are on disk.
    spread: see `image_store.encode_all`.
    tell: is called with what is begun, in words; steps can take minutes.

  Raises:
    UserError: the raw data cannot be read, or nothing of it is left.
  """
  try:
    work.mkdir(parents=True, exist_ok=True)
    _keep_if_same(
      work, itertools.chain([settings, images.RULE], _stamps(raw), raw.files)
    )
    if not (work / REPORT).exists():
      with _database(work, memory_gb, processes) as db:
        encode = functools.partial(
          image_store.encode_all,
          raw.images,
          folder=work / IMAGES,
          size=settings["image_size"],
          processes=processes,
          spread=spread,
        )
        report = _make(db, raw, work, settings, encode, tell)
      files.write(str(work / REPORT), json.dumps(report, indent=2))
  except OSError as error:
    raise UserError(
      f"cannot import {raw.interactions.path.parent}: {error}. Expected files "
      f"that can be read, and space to write to in {work}."
    ) from error
  return Work(work, settings)


def _make(db, raw, work, settings, encode, tell):
  """Runs the steps of `interactions`; returns the report."""
  horizon = settings["future_horizon"]
  tell(f"reading {raw.titles.path.name}")
  interactions.read_titles(db, raw.titles, raw.paths, work)
  interactions.read_files(db, raw.files)
  by_path, warnings = bool(raw.paths) or raw.titles.has("image"), []
  if not by_path:
    if raw.other_ids:
      mismatch.check_other_ids(db, raw.other_ids, raw.images, work)
    warnings += mismatch.unmatched_names(db, raw.titles.path, raw.images)
  tell(f"reading {raw.interactions.path.name}")
  interactions.read_rows(db, raw.interactions, settings["min_rating"], work)
  tell("filtering")
  interactions.match(db, raw.images, by_path)
  if by_path:
    warnings += mismatch.unmatched_paths(db, raw.images)
  # Only what can be in the core is worth decoding; the core of what is left
  # after that is the core of all items with a usable image.
  offenders = interactions.shrink_to_core(db, settings["k_core"])
  candidates = interactions.candidates(db)
  tell(f"encoding {len(candidates):,} images")
  interactions.drop_images(db, encode(candidates).unusable)
  tell("ordering and splitting")
  offenders += interactions.shrink_to_core(db, settings["k_core"])
  offenders = offenders[: drops.OFFENDERS]
  counts = interactions.write(db, work, horizon)
  lengths = counts.pop("lengths")
  tables = {"raw_rows": raw.interactions, "raw_titles": raw.titles}
  found = drops.account(db, offenders, tables)
  if not counts["events"]:
    raise UserError(
      mismatch.nothing_left(
        db,
        raw.interactions,
        raw.titles,
        raw.images,
        by_path=by_path,
        k_core=settings["k_core"],
        counts=found,
      )
    )
  gaps = drops.gaps(db)
  kept = set(Work(work, settings).item_ids())
  sizes = [  # (width, height) of each kept image
    size
    for item, size in image_store.Store(work / IMAGES).sizes()
    if item in kept
  ]
  return {
    "rows": found["rows"],
    "images": found["images"],
    **counts,
    "windows": drops.windows(lengths, horizon),
    "crop": image_store.crop_losses(sizes),
    "offenders": found["offenders"],
    "titles": found["titles"],
    "history_lengths": lengths,
    **gaps,
    "warnings": warnings + drops.time_warnings(gaps),
  }


@contextlib.contextmanager
def _database(work, memory_gb, threads):
  """Opens an empty database, and removes it afterwards."""
  path = work / "tables.duckdb"
  try:
    path.unlink(missing_ok=True)
    with duckdb_file.connect(work, memory_gb, threads) as db:
      yield db
  except (
    duckdb.OperationalError,
    duckdb.DataError,
    duckdb.InvalidInputException,
  ) as error:
    raise UserError(
      f"the tables could not be worked on: {str(error).splitlines()[0]} "
      f"Expected space to write to in {work}, and memory, see --memory_gb."
    ) from error
  finally:
    path.unlink(missing_ok=True)


def _keep_if_same(work, key):
  """Empties a work folder that was made of other data or by other settings."""
  digest = hashlib.sha256()
  for part in key:
    digest.update(repr(part).encode())
  digest, path = digest.hexdigest(), work / KEY
  if path.exists() and path.read_text() == digest:
    return
  for name in (REPORT, IMAGES):
    _remove(work / name)
  files.write(str(path), digest)


def _stamps(raw):
  for table in (raw.interactions, raw.titles, raw.paths):
    if table:
      stamps = [file.stat() for file in table.files]
      yield str(table), [(s.st_size, s.st_mtime_ns) for s in stamps]


def _remove(path):
  if path.is_dir():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)
