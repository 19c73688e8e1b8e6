"""Small data sets and what reads them."""

import dataclasses

import duckdb
from PIL import Image
import pytest

from genrec_jax import testing
from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data import histories, synthetic
from genrec_jax.data import stream as stream_lib
from genrec_jax.ingest import image_store, job
from tests.data import tiny_data


@pytest.fixture(scope="session")
def processor():
  return testing.TinyProcessor()


@pytest.fixture(scope="session")
def clip_tokenizer():
  return testing.word_tokenizer(12)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
  path = tmp_path_factory.mktemp("data") / "tiny"
  return dataset_lib.load(
    synthetic.build(
      path, num_users=30, held_out=10, num_events=12, future_horizon=2
    )
  )


@pytest.fixture
def stream(dataset, processor, clip_tokenizer):
  def make(*, batch_size=8, seed=0, local_rows=None, **spec):
    return stream_lib.train_batches(
      dataset,
      processor,
      clip_tokenizer,
      dataclasses.replace(tiny_data.SPEC, **spec),
      batch_size=batch_size,
      seed=seed,
      local_rows=local_rows,
    )

  return make


@pytest.fixture
def evaluation(dataset, processor, clip_tokenizer):
  def make(**kwargs):
    return stream_lib.eval_batches(
      dataset,
      processor,
      clip_tokenizer,
      tiny_data.SPEC,
      batch_size=4,
      **kwargs,
    )

  return make


def _make_work(folder, lengths, num_items=40, future_horizon=1):
  """Returns an import of users with so many events, as if it had been read.

  User u's k-th item is (5 u + k) mod `num_items`; ids have leading zeros.
  """
  pictures = folder / "pictures"
  pictures.mkdir(parents=True)
  ids = [f"{item:03d}" for item in range(num_items)]
  for item in ids:
    colour = (5 * int(item), 255 - 5 * int(item), 128)
    Image.new("RGB", (12 + int(item), 20), colour).save(
      pictures / f"{item}.png"
    )
  work = folder / "work"
  image_store.encode_all(
    pictures, [(i, f"{i}.png") for i in ids], work / job.IMAGES, 32, 1
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
        job.ITEMS,
        "id VARCHAR, title VARCHAR, image VARCHAR",
        [(i, f"red circle {i}", f"{i}.png") for i in ids],
      ),
      (
        job.USERS,
        "id VARCHAR, first BIGINT, length BIGINT, train_end BIGINT, "
        "validation_start BIGINT, test_start BIGINT",
        users,
      ),
      (
        job.EVENTS,
        "user_row BIGINT, item_row BIGINT, timestamp BIGINT",
        events,
      ),
    ):
      places = ", ".join("?" * len(rows[0]))
      connection.execute(f"CREATE OR REPLACE TABLE t ({columns})")
      connection.executemany(f"INSERT INTO t VALUES ({places})", rows)
      connection.execute(f"COPY t TO '{work / table}' (FORMAT parquet)")
  return job.Work(work, {"k_core": 5, "image_size": 32})


@pytest.fixture(scope="session")
def make_work():
  return _make_work
