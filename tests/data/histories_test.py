from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.data import histories


@pytest.mark.parametrize(
  ("length", "horizon", "expected"),
  [
    (10, 1, (8, 8, 9)),
    (24, 3, (18, 18, 21)),
    (7, 3, (1, 1, 4)),
    (6, 3, (2, 2, 4)),  # too short for 3 + 3 + 1: parts of 2
    (3, 3, (1, 1, 2)),
    (2, 1, (2, 2, 2)),  # no validation, no test
    (1, 1, (1, 1, 1)),
  ],
)
def test_split_points(length, horizon, expected):
  assert histories.split_points(length, horizon) == expected
  _, validation, test = expected
  held_out = histories.split_points(length, horizon, held_out=True)
  assert held_out == (0, validation, test)


def test_horizon_must_be_positive():
  with pytest.raises(UserError, match="at least 1"):
    histories.split_points(5, 0)


def test_orders_by_time_then_item_id():
  events = [
    ("b", "010", 7),
    ("a", "3", 9),
    ("a", "20", 5),
    ("a", "1", 5),
    ("b", "01", 7),
    ("a", "100", 5),
  ]
  a, b = histories.build(events, held_out=["b"])
  assert a.user == "a"
  assert a.items == ("1", "100", "20", "3")
  assert a.timestamps.tolist() == [5, 5, 5, 9]
  assert a.splits == (2, 2, 3)
  assert b.items == ("01", "010")
  assert b.splits.train_end == 0
  shuffled = histories.build(reversed(events), held_out=["b"])
  assert [h.items for h in shuffled] == [a.items, b.items]


def test_all_problems_are_listed_at_once():
  events = [("a", "1", 1), ("a", "1", 2), ("b", "2", 1), ("b", "2", 1)]
  with pytest.raises(UserError) as error:
    histories.build(events, held_out=["ghost"])
  for word in ("'a'", "'b'", "'ghost'", "earliest"):
    assert word in str(error.value)


def test_targets_of_each_split():
  splits = histories.split_points(10, future_horizon=2)
  assert histories.target_ranges("train", 10, splits) == (1, 6, 6)
  assert histories.target_ranges("validation", 10, splits) == (6, 7, 8)
  assert histories.target_ranges("test", 10, splits) == (8, 9, 10)
  with pytest.raises(UserError, match="Unknown split 'tset'"):
    histories.target_ranges("tset", 10, splits)


def test_a_target_needs_an_item_before_it():
  nothing_before = histories.Splits(0, 0, 1)
  assert histories.target_ranges("validation", 2, nothing_before).size == 0
  assert histories.target_ranges("test", 2, nothing_before).size == 1
  assert histories.target_ranges("test", 2, histories.Splits(0, 0, 0)).size == 0


def test_many_histories_are_cut_as_each_alone():
  lengths = np.arange(1, 20)
  for horizon, held_out in ((1, False), (3, False), (3, True)):
    many = histories.split_points(lengths, horizon, held_out)
    each = [histories.split_points(n, horizon, held_out) for n in range(1, 20)]
    np.testing.assert_array_equal(np.stack(many, 1), each)
    for split in histories.SPLITS:
      found = histories.target_ranges(split, lengths, many)
      alone = [
        histories.target_ranges(split, n, splits)
        for n, splits in zip(lengths, each, strict=True)
      ]
      np.testing.assert_array_equal(np.stack(found, 1), alone)
      np.testing.assert_array_equal(found.size, [one.size for one in alone])


@given(st.integers(1, 30), st.integers(1, 6), st.booleans(), st.integers(1, 8))
def test_parts_are_disjoint_whatever_the_length(
  length, horizon, held_out, future
):
  (history,) = histories.build(
    [("u", f"{i:02d}", i) for i in range(length)],
    future_horizon=horizon,
    held_out=["u"] if held_out else [],
  )
  used = {}
  for split in histories.SPLITS:
    first, stop, end = histories.target_ranges(split, length, history.splits)
    targets = range(first, stop)
    used[split] = {i for t in targets for i in range(t, min(t + future, end))}
    assert all(target > 0 for target in targets)  # something to go by
    assert end <= length
  # Training sees nothing at or after its end: neither as history nor future.
  assert not held_out or not used["train"]
  later = used["validation"] | used["test"]
  assert max(used["train"], default=-1) < min(later, default=length)
  assert not used["validation"] & used["test"]
  if length >= 3:
    assert used["validation"]
    assert used["test"]
