"""A tiny data set, and readers of batches made of it."""

import functools

import jax
import numpy as np

from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data import world
from genrec_jax.data.histories import Splits
from genrec_jax.data.windows import WindowSpec
from genrec_jax.testing import INSTRUCTION

SPEC = WindowSpec(5, 3, instruction=INSTRUCTION)


@functools.cache
def _known():
  renders = world.render(world.attributes(np.arange(world.NUM_ITEMS)))
  return {image.tobytes(): item for item, image in enumerate(renders)}


def item_of(image):
  return _known()[image.tobytes()]


def fake_dataset(users, num_items=40):
  """Makes a data set in memory of users (rows, splits)."""
  items = [{"id": b"%d" % i, "title": b"red"} for i in range(num_items)]
  records = [
    {
      "id": b"u%d" % user,
      "items": [b"%d" % row for row in rows],
      "rows": np.asarray(rows),
      "timestamps": np.arange(len(rows)),
      **Splits(*splits)._asdict(),
    }
    for user, (rows, splits) in enumerate(users)
  ]
  return dataset_lib.Dataset("memory", items, records, {})


def take(iterator, number):
  return [next(iterator) for _ in range(number)]


def windows_in(batches):
  """Returns (history, future) item tuples of every row of the batches."""
  windows = []
  for batch in batches:
    for row in range(len(batch.history_mask)):
      windows.append(
        tuple(
          tuple(item_of(i) for i, real in zip(*pair, strict=True) if real)
          for pair in (
            (batch.prompt.images[row], batch.history_mask[row]),
            (batch.future[row], batch.future_mask[row]),
          )
        )
      )
  return windows


def train_windows(dataset, history_length=5, future_horizon=3):
  """Returns the (history, future) item tuples of all training windows."""
  windows = []
  for record in dataset.users:
    rows = record["rows"].tolist()[: record["train_end"]]
    for t in range(1, len(rows)):
      windows.append(
        (
          tuple(rows[max(t - history_length, 0) : t]),
          tuple(rows[t : t + future_horizon]),
        )
      )
  return windows


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)
