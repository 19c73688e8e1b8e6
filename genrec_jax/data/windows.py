"""Windows of user histories: what is shown, what is aimed at, how many.

Nothing is read from records: what starting takes grows with the number of users
by 8 bytes each.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from genrec_jax.core.errors import UserError
from genrec_jax.data import histories
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.histories import SHORT_HISTORIES
from genrec_jax.data.index import Index


@dataclasses.dataclass(frozen=True)
class Windows:
  """All windows of a split, numbered by user, then by target."""

  index: Index
  split: str
  history_length: int
  future_horizon: int
  whole: bool  # no others
  starts: np.ndarray  # [U + 1] int64, number of each user's first window

  def __len__(self) -> int:
    """Returns the number of windows."""
    return int(self.starts[-1])

  def locate(self, number: int) -> tuple[int, int, int]:
    """Returns a window's user, target and where its future ends.

    The latter two are positions in the user's rows.
    """
    user = int(np.searchsorted(self.starts, number, side="right")) - 1
    first, _, end = _ranges(self, self.whole, user)
    target = int(first) + int(number - self.starts[user])
    return user, target, min(target + self.future_horizon, int(end))

  def rows(self, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the item rows of a window's history and future."""
    user, target, end = self.locate(number)
    rows = self.index.user_rows(user)
    return rows[max(target - self.history_length, 0) : target], rows[target:end]


class Counts(NamedTuple):
  """How many windows and users a split has."""

  windows: int
  padded: int  # windows that are not whole
  users: int  # who have windows
  short: int  # users who have no whole window
  left_out: int  # the short ones, if their windows are dropped, else 0


def find_windows(
  dataset: Dataset,
  split: str,
  *,
  history_length: int,
  future_horizon: int,
  short_histories: str = "pad",
) -> Windows:
  """Finds the windows of 'train', 'validation' or 'test'.

  A window is up to N items, the target, and the items after it, F with the
  target, as far as the split's part of the user's history goes. If the data
  set has held-out users, validation and test are theirs only.

  Args:
    dataset: see `dataset.load`.
    split: one of `histories.SPLITS`.
    history_length: N, 1 or more.
    future_horizon: F, 1 or more.
    short_histories: 'pad' takes targets with any item before them, 'drop' only
      whole windows: N items before the target and, in training, F from it on.
      Users who have none are left out.

  Raises:
    UserError: a length or `short_histories` is none of these.
  """
  problems = [
    f"data.{name}={value}: expected 1 or more"
    for name, value in (
      ("history_length", history_length),
      ("future_horizon", future_horizon),
    )
    if value < 1
  ]
  if short_histories not in SHORT_HISTORIES:
    problems.append(
      f"data.short_histories={short_histories!r}: expected one of"
      f" {', '.join(SHORT_HISTORIES)}"
    )
  if problems:
    raise UserError("; ".join(problems))
  starts = np.zeros(len(dataset.index.splits) + 1, np.int64)
  found = Windows(
    dataset.index,
    split,
    history_length,
    future_horizon,
    whole=short_histories == "drop",
    starts=starts,
  )
  first, stop, _ = _ranges(found, found.whole)
  np.cumsum(np.maximum(stop - first, 0), out=starts[1:])
  return found


def count_windows(found: Windows) -> Counts:
  """Counts the windows of a split and the users who are too short for it."""
  has = np.diff(found.starts)
  first, stop, _ = _ranges(found, whole=False)
  possible = np.maximum(stop - first, 0)
  first, stop, _ = _ranges(found, whole=True)
  whole = np.maximum(stop - first, 0)
  return Counts(
    windows=len(found),
    padded=int((has - whole).sum()),
    users=int((has > 0).sum()),
    short=int(((possible > 0) & (whole == 0)).sum()),
    left_out=int(((possible > 0) & (has == 0)).sum()),
  )


def describe(dataset: Dataset, **window) -> str:
  """Returns a line on what is trained on and who is left out; see `windows`."""
  found = count_windows(find_windows(dataset, "train", **window))
  line = f"{found.windows:,} training windows of {found.users:,} users"
  if found.short:
    done = "left out" if found.left_out else "padded and masked"
    line += f"; {found.short:,} users too short for a whole one are {done}"
  return line


def _ranges(found, whole, user=slice(None)):
  """Returns first target, the one after the last, and end, of some users."""
  index, train = found.index, found.split == "train"
  lengths = index.starts[1:][user] - index.starts[:-1][user]
  splits = index.splits[user]
  first, stop, end = histories.target_ranges(
    found.split, lengths, splits[..., 0], splits[..., 1], splits[..., 2]
  )
  if not train and index.held_out:
    stop = np.where(splits[..., 0] > 0, first, stop)
  if whole:
    first = np.maximum(first, found.history_length)
    stop = end - found.future_horizon + 1 if train else stop
  return first, stop, end
