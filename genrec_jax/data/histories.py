"""From raw events to ordered histories with train, validation and test parts.

A history of L items is cut at three indices: train targets and their futures
lie in [0, train_end), the validation window's in [validation_start, test_start)
and the test window's in [test_start, L). A window's history is what comes
before its target, so later parts read earlier ones, never the reverse.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
import dataclasses

import numpy as np

from genrec_jax.core.errors import UserError, listed

SPLITS = ("train", "validation", "test")
SHORT_HISTORIES = ("pad", "drop")  # see `windows.find_windows`


@dataclasses.dataclass(frozen=True)
class History:
  """What one user did, oldest first, and where the parts begin."""

  user: str
  items: tuple[str, ...]
  timestamps: np.ndarray  # [L] int64
  train_end: int  # 0: a held-out user, never trained on
  validation_start: int
  test_start: int


def split_points(
  length: int, future_horizon: int = 1, held_out: bool = False
) -> tuple[int, int, int]:
  """Returns train_end, validation_start, test_start of a history.

  The last `future_horizon` items are the test part, those before it the
  validation part; 1 is the usual leave-last-out. A history too short for two
  such parts and an item before them gets shorter parts; one of fewer than 3
  items gets none and only trains.
  """
  if future_horizon < 1:
    raise UserError(
      f"future_horizon is {future_horizon}: expected at least 1, the next item."
    )
  horizon = min(future_horizon, max(length - 1, 0) // 2)
  test_start = length - horizon
  validation_start = test_start - horizon
  return 0 if held_out else validation_start, validation_start, test_start


def build(
  events: Iterable[tuple[str, str, int]],
  *,
  future_horizon: int = 1,
  held_out: Collection[str] = (),
) -> list[History]:
  """Groups events (user, item, timestamp) into histories, sorted by user.

  Events are ordered by timestamp; ties, which are common, by item id.

  Args:
    events: in any order; ids are strings, timestamps any integers.
    future_horizon: see `split_points`.
    held_out: users that are never trained on.

  Raises:
    UserError: a user has the same item twice, or a held-out user no events.
  """
  grouped = defaultdict(list)
  for user, item, timestamp in events:
    grouped[user].append((timestamp, item))
  problems = [
    f"held-out user {u!r} has no events" for u in held_out if u not in grouped
  ]
  held_out = frozenset(held_out)
  histories = []
  for user, pairs in sorted(grouped.items()):
    pairs.sort()
    items = tuple(item for _, item in pairs)
    if len(set(items)) < len(items):
      twice = sorted({item for item in items if items.count(item) > 1})
      problems.append(f"user {user!r} has {', '.join(twice)} more than once")
    histories.append(
      History(
        user,
        items,
        np.asarray([timestamp for timestamp, _ in pairs], np.int64),
        *split_points(len(items), future_horizon, user in held_out),
      )
    )
  if problems:
    raise UserError(
      listed(
        "Cannot build histories: expected each user to have an item at most "
        "once (keep the earliest event of each pair).",
        problems,
      )
    )
  return histories


def targets(history: History, split: str) -> tuple[range, int]:
  """Returns the target indices of a split's windows, and where futures end.

  See `target_ranges`, which does the same for many users at once.
  """
  first, stop, end = target_ranges(
    split,
    len(history.items),
    history.train_end,
    history.validation_start,
    history.test_start,
  )
  return range(int(first), int(stop)), int(end)


def target_ranges(
  split: str, length, train_end, validation_start, test_start
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the first target of each user, the one after the last, the end.

  A target needs at least one item before it. Training has one window for each
  target; validation and test have one window each, if their part is not empty.
  Futures end before `end`. No targets: the second is not after the first.

  Args:
    split: one of `SPLITS`.
    length: of histories, [...] int.
    train_end: see `History`, [...] int.
    validation_start: likewise.
    test_start: likewise.
  """
  if split == "train":
    first, stop, end = np.ones_like(train_end), train_end, train_end
  elif split == "validation":
    first, end = validation_start, test_start
    stop = first + ((first > 0) & (first < end))
  elif split == "test":
    first, end = test_start, length
    stop = first + ((first > 0) & (first < end))
  else:
    raise UserError(f"Unknown split {split!r}: expected one of {SPLITS}.")
  return first, stop, end
