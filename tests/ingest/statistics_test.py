"""Numbers of the report that are computed from arrays."""

import pytest

from genrec_jax.data import histories
from genrec_jax.ingest import statistics


def test_windows_are_counted_by_length_of_history():
  lengths = {1: 5, 2: 3, 3: 2, 9: 1}
  for horizon in (1, 2, 3):
    expected = dict.fromkeys(histories.SPLITS, 0)
    for length, users in lengths.items():
      splits = histories.split_points(length, horizon)
      for split in expected:
        first, stop, _ = histories.target_ranges(split, length, splits)
        expected[split] += users * len(range(first, stop))
    assert statistics.num_windows(lengths, horizon) == expected
  # Of 9 items the last two are test and validation, the first has no history.
  assert statistics.num_windows({9: 1}, 1) == {
    "train": 6,
    "validation": 1,
    "test": 1,
  }


def test_losses_to_the_centre_square_are_counted():
  sizes = [(30, 30), (30, 30), (20, 30), (30, 20), (19, 20), (1, 4)]
  counts = statistics.crop_losses(iter(sizes))
  # 1/3 twice, 1/20 and 3/4 of their pixels.
  assert counts == {
    "images": 6,
    "cropped": 4,
    "mean_share": pytest.approx((2 / 3 + 1 / 20 + 3 / 4) / 6),
    "shares": {"up to 10%": 1, "up to 25%": 0, "up to 50%": 2, "up to 100%": 1},
  }
  assert statistics.crop_losses([])["mean_share"] == 0
