"""Windows of user histories: the items shown to a model and those aimed at.

Found from the index of a data set, without reading records: what it takes grows
with the number of users by 8 bytes each.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple

import numpy as np

from genrec_jax.core.errors import UserError
from genrec_jax.data import histories
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.histories import SHORT_HISTORIES, TargetRange
from genrec_jax.data.index import Index
from genrec_jax.data.prompts import PromptDataset


@dataclasses.dataclass(frozen=True)
class WindowSpec:
  """Sizes of windows, and the prompt's instruction about them.

  Raises:
    UserError: a value is out of range, all of them listed.
  """

  history_length: int  # N: items in the prompt, at most; 1 or more
  future_horizon: int  # F: items from the target on, at most; 1 or more
  # 'pad': a target needs one item before it. 'drop': only whole windows, with N
  # items before the target and, in training, F from it on; users who have none
  # are left out.
  short_histories: str = "pad"
  instruction: str = ""  # ends the prompt: what is asked of the model
  # W: tokens of the title, and its end, that answers begin with; 0: none.
  title_tokens: int = 0

  def __post_init__(self):
    """Checks the values."""
    problems = [
      f"data.{name}={value}: expected 1 or more"
      for name, value in (
        ("history_length", self.history_length),
        ("future_horizon", self.future_horizon),
      )
      if value < 1
    ]
    if self.short_histories not in SHORT_HISTORIES:
      problems.append(
        f"data.short_histories={self.short_histories!r}: expected one of"
        f" {', '.join(SHORT_HISTORIES)}"
      )
    if problems:
      raise UserError("; ".join(problems))

  @classmethod
  def from_options(
    cls, data: Mapping[str, Any], title_tokens: int = 0
  ) -> "WindowSpec":
    """Returns the spec among the options of a config's `data`."""
    names = {field.name for field in dataclasses.fields(cls)} - {"title_tokens"}
    own = {name: data[name] for name in names}
    return cls(**own, title_tokens=title_tokens)

  @property
  def whole_only(self) -> bool:
    """Returns whether windows that would need padding are left out."""
    return self.short_histories == "drop"


class Window(NamedTuple):
  """Positions in the history of a user that make one window.

  Its history is [start, target), its future, with the target, [target, end).
  """

  user: int  # row in the users data set
  start: int
  target: int
  end: int


class WindowCounts(NamedTuple):
  """Numbers of windows and users of a split."""

  windows: int
  padded: int  # windows that are not whole
  users: int  # who have windows
  short: int  # users who have no whole window
  left_out: int  # the short ones, if their windows are dropped, else 0


@dataclasses.dataclass(frozen=True)
class Windows:
  """All windows of a split, numbered by user, then by target."""

  index: Index
  split: str
  spec: WindowSpec
  starts: np.ndarray  # [U + 1] int64, number of each user's first window

  def __len__(self) -> int:
    """Returns the number of windows."""
    return int(self.starts[-1])

  def __getitem__(self, number: int) -> Window:
    """Returns a window by its number."""
    if not 0 <= number < len(self):
      raise IndexError(f"window {number} of {len(self)}")
    user = int(np.searchsorted(self.starts, number, side="right")) - 1
    targets = _targets(
      self.index, self.split, self.spec, self.spec.whole_only, user
    )
    target = int(targets.first) + int(number - self.starts[user])
    return Window(
      user,
      max(target - self.spec.history_length, 0),
      target,
      min(target + self.spec.future_horizon, int(targets.end)),
    )

  def item_rows(self, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows in `items` of a window's history and of its future.

    [n] and [f] int32 with 1 <= n <= N and 1 <= f <= F; the target is the first
    of the future.
    """
    user, start, target, end = self[number]
    rows = self.index.history(user)  # [L]
    return rows[start:target], rows[target:end]

  def counts(self) -> WindowCounts:
    """Counts the windows, and the users who are too short for whole ones."""
    index, split, spec = self.index, self.split, self.spec
    number = np.diff(self.starts)  # [U]
    possible = _targets(index, split, spec, whole_only=False).size  # [U]
    whole = _targets(index, split, spec, whole_only=True).size  # [U]
    return WindowCounts(
      windows=len(self),
      padded=int((number - whole).sum()),
      users=int((number > 0).sum()),
      short=int(((possible > 0) & (whole == 0)).sum()),
      left_out=int(((possible > 0) & (number == 0)).sum()),
    )


@dataclasses.dataclass(frozen=True)
class PromptWindows(Windows):
  """Windows of prompts of a file: no history, and the prompt's item alone."""

  rows: np.ndarray  # [W] int, the split's prompts

  def __len__(self) -> int:
    """Returns the number of windows."""
    return len(self.rows)

  def __getitem__(self, number: int) -> Window:
    """Returns a window by its number."""
    return Window(user=int(self.rows[number]), start=0, target=0, end=1)


def find_windows(dataset: Dataset, split: str, spec: WindowSpec) -> Windows:
  """Finds the windows of 'train', 'validation' or 'test'.

  A window is up to N items, the target, and the items after it, F with the
  target, as far as the split's part of the user's history goes. If the data
  set has held-out users, validation and test are theirs only.

  Args:
    dataset: see `dataset.load`.
    split: one of `histories.SPLITS`.
    spec: N, F, and what to do with short histories. Prompts of a file have
      neither, but one masked item of each, for shapes to be as ever.
  """
  index = dataset.index
  if isinstance(dataset, PromptDataset):
    one = dataclasses.replace(spec, history_length=1, future_horizon=1)
    return PromptWindows(
      index, split, one, starts=np.zeros(0), rows=dataset.splits[split]
    )
  starts = np.zeros(len(index.splits) + 1, np.int64)  # [U + 1]
  # In place: of millions of users, every further copy is felt.
  np.cumsum(_targets(index, split, spec, spec.whole_only).size, out=starts[1:])
  return Windows(index, split, spec, starts)


def describe(dataset: Dataset, spec: WindowSpec) -> str:
  """Returns a line on the training windows and the users left out."""
  windows = find_windows(dataset, "train", spec)
  if isinstance(windows, PromptWindows):
    return f"{len(windows):,} training prompts of {len(dataset.items):,}"
  counts = windows.counts()
  line = f"{counts.windows:,} training windows of {counts.users:,} users"
  if counts.short:
    done = "left out" if counts.left_out else "padded and masked"
    line += f"; {counts.short:,} users too short for a whole one are {done}"
  return line


def _targets(
  index: Index,
  split: str,
  spec: WindowSpec,
  whole_only: bool,
  users: int | slice = slice(None),
) -> TargetRange:
  """Returns the targets of one user or of all, [] or [U] int."""
  splits = index.splits_of(users)
  first, stop, end = histories.target_ranges(
    split, index.lengths_of(users), splits
  )
  train = split == "train"
  if not train and index.held_out:
    # Only held-out users are evaluated: the others' items were trained on.
    stop = np.where(splits.train_end > 0, first, stop)
  if whole_only:
    first = np.maximum(first, spec.history_length)
    # In validation and test the part itself may be shorter than F.
    stop = end - spec.future_horizon + 1 if train else stop
  return TargetRange(first, stop, end)
