"""Histories of users, ordered by time and cut into train, validation, test.

A history of L items is cut at three positions: training targets and their
futures lie in [0, train_end), the validation target's in [validation_start,
test_start) and the test target's in [test_start, L). What is shown of a user is
what comes before the target, so later parts read earlier ones, never the
reverse.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
import dataclasses
from typing import Any, NamedTuple

import numpy as np

from genrec_jax.core.errors import UserError, listed

SPLITS = ("train", "validation", "test")
SHORT_HISTORIES = ("pad", "drop")  # see `windows.WindowSpec`


class Splits(NamedTuple):
  """Positions that cut a history into its parts.

  Integers of one history, or arrays [...] of many.
  """

  train_end: Any  # 0: a held-out user, never trained on
  validation_start: Any
  test_start: Any


class TargetRange(NamedTuple):
  """Positions of a split's targets: first, first + 1, ..., stop - 1.

  Integers of one history, or arrays [...] of many.
  """

  first: Any
  stop: Any  # not above `first`: no targets
  end: Any  # futures stop before it

  @property
  def size(self) -> Any:
    """Returns the number of targets, [...] int."""
    return np.maximum(self.stop - self.first, 0)


@dataclasses.dataclass(frozen=True)
class History:
  """Items of one user, oldest first, and where the parts begin."""

  user: str
  items: tuple[str, ...]  # L ids
  timestamps: np.ndarray  # [L] int64
  splits: Splits


def split_points(
  length: Any, future_horizon: int = 1, held_out: bool = False
) -> Splits:
  """Returns where histories are cut.

  The last `future_horizon` items are the test part, those before it the
  validation part; 1 is the usual leave-last-out. A history too short for two
  such parts and an item before them gets shorter parts; one of fewer than 3
  items gets none and only trains.

  Args:
    length: L of one history, or of many, [...] int.
    future_horizon: items in the validation and in the test part, at most.
    held_out: whether these users are never trained on.

  Raises:
    UserError: `future_horizon` is below 1.
  """
  if future_horizon < 1:
    raise UserError(
      f"future_horizon is {future_horizon}: expected at least 1, the next item."
    )
  # Both parts are equally long and leave one item before them.
  horizon = np.minimum(future_horizon, np.maximum(length - 1, 0) // 2)  # [...]
  test_start = length - horizon
  validation_start = test_start - horizon
  # 0 times it, so that it is an array where the others are.
  train_end = 0 * validation_start if held_out else validation_start
  return Splits(train_end, validation_start, test_start)


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
  grouped: dict[str, list[tuple[int, str]]] = defaultdict(list)
  for user, item, timestamp in events:
    grouped[user].append((timestamp, item))
  problems = [
    f"held-out user {u!r} has no events" for u in held_out if u not in grouped
  ]
  never_trained = frozenset(held_out)
  histories = []
  for user, pairs in sorted(grouped.items()):
    pairs.sort()  # by timestamp, then item id: the same order on every machine
    items = tuple(item for _, item in pairs)
    if len(set(items)) < len(items):
      twice = sorted({item for item in items if items.count(item) > 1})
      problems.append(f"user {user!r} has {', '.join(twice)} more than once")
    histories.append(
      History(
        user,
        items,
        np.asarray([timestamp for timestamp, _ in pairs], np.int64),
        split_points(len(items), future_horizon, user in never_trained),
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


def target_ranges(split: str, length: Any, splits: Splits) -> TargetRange:
  """Returns which positions of histories are targets of a split.

  The one rule for it, for one history or for many at once. A target needs at
  least one item before it. In training every such position is a target;
  validation and test have one target each, if their part is not empty.

  Args:
    split: one of `SPLITS`.
    length: L of histories, [...] int.
    splits: of the same histories.

  Raises:
    UserError: there is no such split.
  """
  if split == "train":
    end = splits.train_end
    return TargetRange(np.ones_like(end), end, end)
  if split == "validation":
    first, end = splits.validation_start, splits.test_start
  elif split == "test":
    first, end = splits.test_start, length
  else:
    raise UserError(f"Unknown split {split!r}: expected one of {SPLITS}.")
  return TargetRange(first, first + ((first > 0) & (first < end)), end)
