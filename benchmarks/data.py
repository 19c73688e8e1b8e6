"""Speed of an import: raw data to a data set.

    python -m benchmarks.data [--rows=25000000] [--images=2000] [--processes=2]

Interactions are generated: a rating each, users and items as unevenly spread as
in shops, so that the k-core takes several rounds. Images are photographs as far
as a codec can tell: 1200 x 900 JPEG.
"""

import concurrent.futures
import functools
import io
import multiprocessing
import os
from pathlib import Path
import resource
import shutil
import tempfile
import time

from absl import app, flags
import duckdb
import numpy as np
from PIL import Image

from genrec_jax.core import duckdb_file
from genrec_jax.ingest import (
  drops,
  image_files,
  image_store,
  k_core,
  matching,
  ordering,
  raw_tables,
  statistics,
)
from genrec_jax.ingest.readers import movielens

# Of a large shop: with 25 M rows most users have few, as the k-core is to find.
_USERS, _ITEMS = 4_000_000, 500_000


def generate(folder: Path, rows: int) -> None:
  """Writes ratings.csv and movies.csv of MovieLens's form."""
  with duckdb.connect() as connection:
    # One thread: with more, rows would take random numbers in any order.
    connection.execute("SET threads = 1; SELECT setseed(0.5)")
    # Half of the rows are of the first 5 % of users, and item n is chosen in
    # proportion to n^(-2/3).
    connection.execute(f"""
      COPY (SELECT
          CAST(1 + floor({_USERS} * CASE WHEN random() < 0.5
            THEN random() ELSE 0.05 * random() END) AS INT) AS userId,
          CAST(1 + floor({_ITEMS} * pow(random(), 3)) AS INT) AS movieId,
          round(random() * 9 + 1) / 2 AS rating,
          CAST(9e8 + random() * 6e8 AS BIGINT) AS timestamp
        FROM range({rows}))
      TO '{folder}/ratings.csv' (HEADER)""")
    connection.execute(f"""
      COPY (SELECT range AS movieId, 'Title ' || range AS title, '' AS genres
        FROM range(1, {_ITEMS} + 1)) TO '{folder}/movies.csv' (HEADER)""")


def filter_and_split(
  folder: Path, memory_gb: float, processes: int
) -> dict[str, float]:
  """Runs an import without its images; returns seconds by step, and more."""
  tables, figures = movielens.tables(folder), {}

  def timed(name, function, *args):
    start = time.perf_counter()
    result = function(*args)
    # A step may take several calls, so their times add up.
    figures[name] = figures.get(name, 0) + time.perf_counter() - start
    return result

  work = folder / "work"
  work.mkdir()
  # Names alone: what is measured are tables, and no image is opened.
  names = (f"{item}.jpg" for item in range(1, _ITEMS + 1))
  listing = (image_files.File(name, "") for name in names)
  with duckdb_file.connect(work, memory_gb, processes) as db:
    # In the order of `ingest.job`; each call reads what the one before made.
    timed("parse, filter", raw_tables.read_events, db, tables[0], 1.5, work)
    timed("titles, files", raw_tables.read_titles, db, tables[1], None, work)
    timed("titles, files", raw_tables.read_files, db, listing)
    timed("deduplicate", matching.match, db, folder, False)
    timed("5-core", k_core.shrink, db, 5)
    timed("5-core", k_core.drop_images, db, {})  # none is unusable
    sizes = timed("order, split", ordering.write, db, work, 1)
    timed("report", drops.count_drops, db, [])
    timed("report", statistics.times, db)
  figures["events"] = sizes.events
  # The peak of the whole process, `generate` included. It never falls, so it is
  # read before any image is decoded. In KB, on Linux.
  figures["GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
  return figures


def paint(folder: Path, number: int, distinct: int = 50) -> list[str]:
  """Writes photograph-like JPEGs, smooth colours and some noise; returns names.

  Noise, as flat images would be decoded and encoded far faster than photos.
  """
  rng, names = np.random.default_rng(0), []
  noise = rng.normal(0, 6, (900, 1200, 3))  # [h, w, 3]
  for index in range(number):
    names.append(f"{index:06d}.jpg")
    if index >= distinct:  # painting takes longer than what is measured
      shutil.copy(folder / names[index % distinct], folder / names[-1])
      continue
    # Colours of a few places, blended between them, and noise as of a camera.
    small = rng.integers(0, 256, (9, 12, 3), np.uint8)  # [h / 100, w / 100, 3]
    large = Image.fromarray(small).resize((1200, 900), Image.Resampling.BICUBIC)
    pixels = np.asarray(large) + np.roll(noise, index, 1)  # [h, w, 3]
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(
      folder / names[-1], quality=90
    )
  return names


def bare(folder: Path, size: int, names: list[str]) -> int:
  """Returns the bytes of images decoded, shrunk and encoded by Pillow alone."""
  written = 0
  for name in names:
    with Image.open(folder / name) as image:
      # As large as the import stores it: its shorter side has `size` pixels.
      scale = size / min(image.size)
      image.thumbnail([round(scale * side) for side in image.size])
      data = io.BytesIO()
      # As the import saves them: another quality would be another speed.
      image.save(data, "JPEG", quality=95, subsampling=0)
      written += len(data.getvalue())
  return written


def image_rates(
  folder: Path, names: list[str], size: int, processes: int
) -> tuple[float, float]:
  """Returns images per second of the import and of bare Pillow."""
  # Start of the processes included, on both sides. The files were just written,
  # so both read them from the page cache.
  start = time.perf_counter()
  items = [(name, name) for name in names]
  with tempfile.TemporaryDirectory() as store:
    image_store.encode_all(folder, items, store, size, processes)
    ours = len(names) / (time.perf_counter() - start)
  start = time.perf_counter()
  # Chunks of the same size, as many processes, started in the same way: what is
  # left of the ratio is the import's own work.
  step = image_store.CHUNK
  chunks = [names[n : n + step] for n in range(0, len(names), step)]
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(processes, context) as pool:
    list(pool.map(functools.partial(bare, folder, size), chunks))
  return ours, len(names) / (time.perf_counter() - start)


def main(argv: list[str]) -> None:
  """Prints the figures."""
  del argv
  options = flags.FLAGS
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    generate(folder, options.rows)
    figures = filter_and_split(folder, options.memory_gb, options.processes)
    events, memory = figures.pop("events"), figures.pop("GB")
    print(
      f"{options.rows:,} interactions to {events:,} in "
      f"{sum(figures.values()):.0f} s with {options.processes} threads and "
      f"{memory:.1f} GB at most: "
      + ", ".join(f"{key} {value:.0f} s" for key, value in figures.items()),
      flush=True,
    )
  with tempfile.TemporaryDirectory() as name:
    names = paint(Path(name), options.images)
    ours, pillow = image_rates(
      Path(name), names, options.image_size, options.processes
    )
    print(
      f"images: {ours:.0f}/s, bare Pillow {pillow:.0f}/s with "
      f"{options.processes} processes: {ours / pillow:.0%}",
      flush=True,
    )


if __name__ == "__main__":
  flags.DEFINE_integer("rows", 25_000_000, "Interactions.")
  flags.DEFINE_integer("images", 2000, "Images.")
  flags.DEFINE_integer("image_size", 384, "Side of stored images.")
  flags.DEFINE_integer("processes", os.cpu_count(), "Workers.")
  flags.DEFINE_float("memory_gb", 2, "Memory for tables.")
  app.run(main)
