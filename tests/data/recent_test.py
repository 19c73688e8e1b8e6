"""The cache of images keeps as many as fit into its bytes."""

import concurrent.futures
import threading

import numpy as np

from genrec_jax.data.recent import Recent


def _reader(bytes_of):
  """Returns a function that makes images, and the list of rows it was given."""
  asked = []

  def read(row):
    asked.append(row)
    return tuple(np.full(n, row, np.uint8) for n in bytes_of(row))

  return read, asked


def test_images_asked_for_last_are_kept():
  read, asked = _reader(lambda row: [10])
  recent = Recent(read, 30)
  for row in (0, 1, 2, 0, 3, 0, 1):  # 3 takes the place of 1, not of 0
    assert recent(row)[0][0] == row
  assert asked == [0, 1, 2, 3, 1]


def test_forms_are_counted_by_what_they_take():
  # Two arrays of 10 take all, two of 5 and one twice half of it.
  read, asked = _reader(lambda row: [10, 10] if row == 9 else [5, 5])
  recent = Recent(read, 20)
  for row in (0, 1, 0, 1, 9, 9, 0):
    recent(row)
  assert asked == [0, 1, 9, 0]


def test_one_array_in_two_forms_counts_once():
  asked = []

  def read(row):
    asked.append(row)
    return (np.zeros(10, np.uint8),) * 2

  recent = Recent(read, 20)
  for row in (0, 1, 0, 1):
    recent(row)
  assert asked == [0, 1]


def test_an_image_larger_than_all_is_returned():
  read, asked = _reader(lambda row: [50])
  recent = Recent(read, 20)
  assert [recent(row)[0][0] for row in (1, 1, 2, 1)] == [1, 1, 2, 1]
  assert asked == [1, 2, 1]


def test_threads_share_it():
  read, _ = _reader(lambda row: [10])
  recent = Recent(read, 50)
  rows = np.random.default_rng(0).integers(20, size=4000).tolist()
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    found = [one[0][0] for one in pool.map(recent, rows)]
  assert found == rows
  # Counted right by all: what is kept still fits.
  assert sum(one[0].nbytes for one in recent._kept.values()) == recent._bytes
  assert recent._bytes <= 50


def test_a_row_that_two_threads_read_at_once_counts_once():
  both = threading.Barrier(2)

  def read(row):
    both.wait(timeout=10)  # until the other reads it, too
    return (np.zeros(10, np.uint8),)

  recent = Recent(read, 20)
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    list(pool.map(recent, [0, 0]))
    list(pool.map(recent, [1, 1]))
  # Both still fit, so neither is read again, which would wait in vain.
  assert recent(0)[0].nbytes == recent(1)[0].nbytes == 10
