"""An import from raw tables and images to a finished work folder."""

from collections.abc import Callable, Iterator
import contextlib
import functools
import itertools
import json
from pathlib import Path
from typing import Any

import duckdb

from genrec_jax.core import duckdb_file, files
from genrec_jax.core.errors import UserError
from genrec_jax.data import images
from genrec_jax.ingest import (
  drops,
  image_store,
  k_core,
  matching,
  mismatch,
  nothing_left,
  ordering,
  raw_tables,
  statistics,
  work_folder,
)
from genrec_jax.ingest.raw_data import Raw
from genrec_jax.ingest.work_folder import IMAGES, REPORT, Work


def make(
  raw: Raw,
  folder: Path,
  settings: dict[str, Any],
  *,
  processes: int,
  memory_gb: float,
  spread: Callable[..., None] | None = None,
  on_step: Callable[[str], None] = lambda step: None,
) -> Work:
  """Reads, filters, orders and splits raw data; encodes the images.

  Args:
    raw: what to read.
    folder: a work folder that is this import's own; see `work_folder`. What a
      stopped import of the same data left there is used again.
    settings: see `raw_data.settings`.
    processes: for images, and threads for tables.
    memory_gb: that tables may take; beyond it they are on disk.
    spread: see `image_store.encode_all`.
    on_step: called with each step as it begins, in words; steps can take
      minutes.

  Raises:
    UserError: the raw data cannot be read, or nothing of it is left.
  """
  try:
    # What is there is kept only if it is of the same files and settings.
    folder.mkdir(parents=True, exist_ok=True)
    work_folder.keep_if_same(
      folder, itertools.chain([settings, images.RULE], raw.stamps(), raw.files)
    )
    if not (folder / REPORT).exists():
      encode = functools.partial(
        image_store.encode_all,
        raw.images,
        folder=folder / IMAGES,
        size=settings["image_size"],
        processes=processes,
        spread=spread,  # None: on this machine
      )
      with _database(folder, memory_gb, processes) as db:
        report = _make(db, raw, folder, settings, encode, on_step)
      # Last: it says that the rest is whole.
      files.write(folder / REPORT, json.dumps(report, indent=2))
  except OSError as error:
    raise UserError(
      f"cannot import {raw.interactions.path.parent}: {error}. Expected files "
      f"that can be read, and space to write to in {folder}."
    ) from error
  return Work(folder, settings)


def _make(db, raw, folder, settings, encode, on_step):
  """Runs the steps of an import; returns the report."""
  # Images are named like their items, unless a table gives their paths.
  by_path = bool(raw.paths) or raw.titles.has("image")
  warnings = _read(db, raw, folder, settings, by_path, on_step)
  # Only what can be in the core is worth decoding; the core of what is left
  # after that is the core of all items with a usable image.
  first_dropped = k_core.shrink(db, settings["k_core"])
  candidates = k_core.images(db)
  on_step(f"encoding {len(candidates):,} images")
  store = encode(candidates)  # hours, of millions of images
  k_core.drop_images(db, store.unusable)
  on_step("ordering and splitting")
  first_dropped += k_core.shrink(db, settings["k_core"])
  sizes = ordering.write(db, folder, settings["future_horizon"])
  counts = drops.count_drops(
    db,
    first_dropped[: drops.NUM_EXAMPLES],
    {"raw_events": raw.interactions, "raw_titles": raw.titles},
  )
  if not sizes.events:  # counted first: the error says where they went
    raise UserError(
      nothing_left.message(
        db, raw, by_path=by_path, k_core=settings["k_core"], counts=counts
      )
    )
  return _report(db, Work(folder, settings), counts, sizes, store, warnings)


def _read(db, raw, folder, settings, by_path, on_step):
  """Makes the tables that the filters work on; returns warnings."""
  on_step(f"reading {raw.titles.path.name}")
  raw_tables.read_titles(db, raw.titles, raw.paths, folder)
  raw_tables.read_files(db, raw.files)
  warnings: list[str] = []
  # Before the interactions, which take longest.
  if not by_path:
    if raw.other_ids:
      mismatch.check_other_ids(db, raw.other_ids, raw.images, folder)
    warnings += mismatch.unmatched_names(db, raw.titles.path, raw.images)
  on_step(f"reading {raw.interactions.path.name}")
  raw_tables.read_events(db, raw.interactions, settings["min_rating"], folder)
  on_step("filtering")
  matching.match(db, raw.images, by_path)
  if by_path:
    warnings += mismatch.unmatched_paths(db, raw.images)
  return warnings


def _report(db, work, counts, sizes, store, warnings):
  """Returns the report; its keys are documented in docs/data.md."""
  times = statistics.times(db)
  kept = set(work.item_ids())
  sides = [  # (width, height) of each kept image
    size for item, size in store.sizes() if item in kept
  ]
  horizon = work.settings["future_horizon"]
  return {
    "rows": counts["rows"],
    "images": counts["images"],
    "users": sizes.users,
    "items": sizes.items,
    "events": sizes.events,
    "windows": statistics.num_windows(sizes.lengths, horizon),
    "crop": statistics.crop_losses(sides),
    "offenders": counts["offenders"],
    "titles": counts["titles"],
    "history_lengths": sizes.lengths,
    **times,
    "warnings": warnings + statistics.time_warnings(times),
  }


@contextlib.contextmanager
def _database(
  folder: Path, memory_gb: float, threads: int
) -> Iterator[duckdb.DuckDBPyConnection]:
  """Opens an empty database, and removes it afterwards."""
  path = folder / "tables.duckdb"
  try:
    # Of an import that was stopped: its tables are read again.
    path.unlink(missing_ok=True)
    with duckdb_file.connect(folder, memory_gb, threads) as db:
      yield db
  except (
    duckdb.OperationalError,
    duckdb.DataError,
    duckdb.InvalidInputException,
  ) as error:
    raise UserError(
      f"the tables could not be worked on: {str(error).splitlines()[0]} "
      f"Expected space to write to in {folder}, and memory, see --memory_gb."
    ) from error
  finally:
    path.unlink(missing_ok=True)
