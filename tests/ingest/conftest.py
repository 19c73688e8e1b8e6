"""Finished imports of a few users, without raw files."""

import duckdb
from PIL import Image
import pytest

from genrec_jax.data import histories
from genrec_jax.ingest import image_store, work_folder


def _make_work(folder, lengths, num_items=40, future_horizon=1):
  """Returns an import of users with so many events, as if it had been read.

  User u's k-th item is (5 u + k) mod `num_items`; ids have leading zeros.
  """
  raw_images = folder / "raw_images"
  raw_images.mkdir(parents=True)
  ids = [f"{item:03d}" for item in range(num_items)]
  for item in ids:
    colour = (5 * int(item), 255 - 5 * int(item), 128)
    Image.new("RGB", (12 + int(item), 20), colour).save(
      raw_images / f"{item}.png"
    )
  work = folder / "work"
  image_store.encode_all(
    raw_images, [(i, f"{i}.png") for i in ids], work / work_folder.IMAGES, 32, 1
  )
  users, events = [], []
  for user, length in enumerate(lengths):
    points = histories.split_points(length, future_horizon)
    users.append((f"u{user}", len(events), length, *map(int, points)))
    events += [
      (user, (5 * user + k) % num_items, 1000 * k) for k in range(length)
    ]
  with duckdb.connect() as connection:
    for table, columns, rows in (
      (
        work_folder.ITEMS,
        "id VARCHAR, title VARCHAR, image VARCHAR",
        [(i, f"red circle {i}", f"{i}.png") for i in ids],
      ),
      (
        work_folder.USERS,
        "id VARCHAR, first BIGINT, length BIGINT, train_end BIGINT, "
        "validation_start BIGINT, test_start BIGINT",
        users,
      ),
      (
        work_folder.EVENTS,
        "user_row BIGINT, item_row BIGINT, timestamp BIGINT",
        events,
      ),
    ):
      places = ", ".join("?" * len(rows[0]))
      connection.execute(f"CREATE OR REPLACE TABLE t ({columns})")
      connection.executemany(f"INSERT INTO t VALUES ({places})", rows)
      connection.execute(f"COPY t TO '{work / table}' (FORMAT parquet)")
  return work_folder.Work(work, {"k_core": 5, "image_size": 32})


@pytest.fixture(scope="session")
def make_work():
  return _make_work
