from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.data import histories
from genrec_jax.data import windows as windows_lib
from genrec_jax.data.windows import WindowSpec, find_windows
from tests.data.tiny_data import fake_dataset


def _found(dataset, split, *spec):
  """Returns user, target and end of all windows."""
  windows = find_windows(dataset, split, WindowSpec(*spec or (3, 2)))
  return [(user, target, end) for user, _, target, end in windows]


def test_a_spec_comes_from_the_options_of_a_config():
  data = {
    "history_length": 4,
    "future_horizon": 2,
    "short_histories": "drop",
    "instruction": "next",
    "path": "",  # and other options that are not of windows
  }
  spec = WindowSpec.from_options(data)
  assert spec == WindowSpec(4, 2, "drop", "next")
  assert spec.whole_only
  assert not WindowSpec(4, 2).whole_only


def test_all_problems_of_a_spec_are_listed():
  with pytest.raises(UserError) as error:
    WindowSpec(0, -1, "cut")
  for part in (
    "data.history_length=0: expected 1 or more",
    "data.future_horizon=-1: expected 1 or more",
    "data.short_histories='cut': expected one of pad, drop",
  ):
    assert part in str(error.value)


def test_windows_are_numbered_by_user_then_target():
  splits = histories.split_points(6)
  dataset = fake_dataset([(range(6), splits), (range(10, 14), (3, 3, 3))])
  windows = find_windows(dataset, "train", WindowSpec(2, 2))
  assert list(windows) == [
    (0, 0, 1, 3),
    (0, 0, 2, 4),
    (0, 1, 3, 4),  # the future ends with the training part
    (1, 0, 1, 3),
    (1, 0, 2, 3),
  ]
  history, future = windows.item_rows(3)
  assert (history.tolist(), future.tolist()) == ([10], [11, 12])
  for number in (-1, len(windows)):
    with pytest.raises(IndexError, match="of 5"):
      windows[number]


def test_short_histories_are_padded_or_left_out_and_counted():
  # Train parts of 8, 4 and 2 items; horizon 1.
  dataset = fake_dataset(
    [
      (np.arange(length), histories.split_points(length))
      for length in (10, 6, 4)
    ]
  )

  def count(split, short_histories):
    spec = WindowSpec(4, 2, short_histories)
    return find_windows(dataset, split, spec).counts()

  # A whole window is targets 4..6 of the first user: 4 items, target, next.
  assert _found(dataset, "train", 4, 2, "drop") == [
    (0, target, target + 2) for target in (4, 5, 6)
  ]
  assert count("train", "pad") == (7 + 3 + 1, 4 + 3 + 1, 3, 2, 0)
  assert count("train", "drop") == (3, 0, 1, 2, 2)
  # There the future is what the part has, one item, in either case.
  assert _found(dataset, "test", 4, 2) == [(0, 9, 10), (1, 5, 6), (2, 3, 4)]
  assert _found(dataset, "test", 4, 2, "drop") == [
    (0, 9, 10),
    (1, 5, 6),
  ]
  assert count("test", "pad") == (3, 1, 3, 1, 0)
  assert count("test", "drop") == (2, 0, 2, 1, 1)
  line = windows_lib.describe(dataset, WindowSpec(4, 2, "drop"))
  assert line.startswith("3 training windows of 1 users; 2 users too short")
  assert line.endswith("left out")


def test_without_held_out_users_everybody_is_evaluated():
  splits = histories.split_points(6)
  dataset = fake_dataset([(range(6), splits), (range(2), (2, 2, 2))])
  assert _found(dataset, "test") == [(0, 5, 6)]  # two items are too few
  assert _found(dataset, "validation") == [(0, 4, 5)]
  assert _found(dataset, "train") == [
    (0, 1, 3),
    (0, 2, 4),
    (0, 3, 4),
    (1, 1, 2),
  ]


_USERS = st.lists(
  st.tuples(st.integers(1, 14), st.booleans()), min_size=1, max_size=6
)


@settings(deadline=None)
@given(_USERS, st.integers(1, 4), st.integers(1, 6), st.integers(1, 5))
def test_nothing_later_reaches_a_train_window(
  lengths, horizon, history_length, future_horizon
):
  users = [
    # Own items for each user, so that an item names the user it leaks from.
    (
      np.arange(length) + 20 * user,
      histories.split_points(length, horizon, held_out),
    )
    for user, (length, held_out) in enumerate(lengths)
  ]
  dataset = fake_dataset(users, num_items=20 * len(users))
  items = {}
  for split in histories.SPLITS:
    found = find_windows(
      dataset, split, WindowSpec(history_length, future_horizon)
    )
    items[split] = [found.item_rows(number) for number in range(len(found))]
  trained = {
    row for pair in items["train"] for part in pair for row in part.tolist()
  }
  judged = {
    row
    for split in ("validation", "test")
    for _, future in items[split]
    for row in future.tolist()
  }
  held_out = {
    row
    for (rows, _), (_, held) in zip(users, lengths, strict=True)
    for row in rows.tolist()
    if held
  }
  assert not trained & judged
  assert not trained & held_out
  if held_out:
    assert judged <= held_out
  validation = [set(f.tolist()) for _, f in items["validation"]]
  for _, future in items["test"]:
    assert all(not set(future.tolist()) & other for other in validation)


_EVENTS = st.lists(
  # Few times, so that most are tied.
  st.lists(st.integers(0, 3), min_size=1, max_size=12),
  min_size=1,
  max_size=4,
)


@settings(deadline=None)
@given(
  _EVENTS, st.randoms(), st.integers(1, 3), st.integers(1, 5), st.integers(1, 4)
)
def test_every_event_is_a_target_or_history_as_defined(
  times, random, horizon, history_length, future_horizon
):
  events = [
    # Ids order ties; 10 comes before 9, as texts do.
    (f"u{user}", str(item), time)
    for user, some in enumerate(times)
    for item, time in enumerate(some)
  ]
  random.shuffle(events)
  found = histories.build(events, future_horizon=horizon)
  dataset = fake_dataset(
    [
      (
        [int(item) for item in history.items],
        history.splits,
      )
      for history in found
    ]
  )
  seen = {split: [{} for _ in found] for split in histories.SPLITS}
  for split, users in seen.items():
    windows = find_windows(
      dataset, split, WindowSpec(history_length, future_horizon)
    )
    for number in range(len(windows)):
      user, _, target, _ = windows[number]
      assert target not in users[user]  # one window for each
      users[user][target] = [
        part.tolist() for part in windows.item_rows(number)
      ]
  for user, history in enumerate(found):
    pairs = list(zip(history.timestamps.tolist(), history.items, strict=True))
    assert pairs == sorted(pairs)
    assert sorted(pairs) == sorted(
      (time, item) for name, item, time in events if name == history.user
    )
    items, length = [int(item) for item in history.items], len(history.items)
    ends = {
      "train": (history.splits.train_end, range(1, history.splits.train_end)),
      "validation": (
        history.splits.test_start,
        [history.splits.validation_start],
      ),
      "test": (length, [history.splits.test_start]),
    }
    for split, (end, targets) in ends.items():
      targets = [t for t in targets if 0 < t < end]
      assert list(seen[split][user]) == targets
      for target, (before, after) in seen[split][user].items():
        assert before == items[max(target - history_length, 0) : target]
        assert after == items[target : min(target + future_horizon, end)]
    trained = {
      item
      for window in seen["train"][user].values()
      for part in window
      for item in part
    }
    if history.splits.train_end > 1:  # else there is nothing to go by
      assert trained == set(items[: history.splits.train_end])
    for split in ("validation", "test"):
      for _, after in seen[split][user].values():
        assert not trained & set(after)
    # What is no train target is the first item or held out, nothing else.
    held_out = range(history.splits.validation_start, length)
    assert {0, *seen["train"][user], *held_out} == set(range(length))
