"""The index of a data set: what is known of it before any record is read.

Item rows and split points of users, and the titles of items, in plain arrays. A
data set of millions keeps them in files next to its records, which are mapped
into memory: opening them takes no time, and the processes of a machine share
one copy. Of a small data set without such files they are read from its records.
"""

from collections.abc import Iterable, Mapping, Sequence
import contextlib
import dataclasses
import functools
import os
import pathlib
from typing import Any

import numpy as np

from genrec_jax.data.histories import Splits

FOLDER = "index"
# File and type of each field of `Index`. Data sets on disk have them, so
# neither can change.
_FILES = {
  "history_starts": ("starts.bin", "<i8"),
  "item_rows": ("rows.bin", "<i4"),
  "splits": ("splits.bin", "<i4"),
  "title_starts": ("title_starts.bin", "<i8"),
  "title_bytes": ("titles.bin", "u1"),
}


@dataclasses.dataclass(frozen=True)
class Index:
  """Users and titles of a data set; U users, E events, I items, B bytes."""

  history_starts: np.ndarray  # [U + 1] int64, each user's first in `item_rows`
  item_rows: np.ndarray  # [E] int32, positions in `items`, oldest first
  splits: np.ndarray  # [U, 3] int32, in the order of `histories.Splits`
  title_starts: np.ndarray  # [I + 1] int64, each title's first in `title_bytes`
  title_bytes: np.ndarray  # [B] uint8, UTF-8
  folder: str = ""  # of the files; '' if in memory only

  def __reduce__(self) -> tuple[Any, tuple]:
    """Travels to other processes as the name of its folder, if it has one."""
    if self.folder:
      return read, (self.folder,)
    return Index, tuple(getattr(self, name) for name in _FILES)

  @functools.cached_property
  def held_out(self) -> bool:
    """Whether there are users that are never trained on."""
    splits = self.splits_of(slice(None))  # [U] each
    return bool(np.any((splits.train_end == 0) & (splits.validation_start > 0)))

  def history(self, user: int) -> np.ndarray:
    """Returns a user's positions in `items`, oldest first: [L] int32."""
    start, end = self.history_starts[user : user + 2]
    return self.item_rows[start:end]

  def lengths_of(self, users: int | slice) -> np.ndarray:
    """Returns the lengths of users' histories, [] or [U] int64."""
    return self.history_starts[1:][users] - self.history_starts[:-1][users]

  def splits_of(self, users: int | slice) -> Splits:
    """Returns where users' histories are cut, [] or [U] int32 each."""
    return Splits(*np.moveaxis(self.splits[users], -1, 0))

  def title(self, row: int) -> str:
    """Returns the title of an item."""
    start, end = self.title_starts[row : row + 2]
    return self.title_bytes[start:end].tobytes().decode()


def read(folder: str | os.PathLike) -> Index:
  """Maps the files of an index into memory.

  Raises:
    OSError, ValueError: a file is missing or damaged.
  """
  arrays: dict[str, np.ndarray] = {}
  for name, (file, dtype) in _FILES.items():
    path = pathlib.Path(folder, file)
    if not path.stat().st_size:  # cannot be mapped
      arrays[name] = np.zeros(0, dtype)
      continue
    # A plain view: every slice of a memmap costs microseconds more.
    arrays[name] = np.memmap(path, dtype, "r").view(np.ndarray)
  arrays["splits"] = arrays["splits"].reshape(-1, len(Splits._fields))
  index = Index(**arrays, folder=os.fspath(folder))
  # A copy that stopped early has files of any length.
  ends = [
    (index.history_starts, index.item_rows),
    (index.title_starts, index.title_bytes),
  ]
  if len(index.history_starts) != len(index.splits) + 1 or any(
    not len(starts) or starts[-1] != len(values) for starts, values in ends
  ):
    raise ValueError("its files are cut or of different data sets")
  return index


def write(
  folder: str | os.PathLike,
  users: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
  titles: Iterable[Sequence[str]],
) -> None:
  """Writes the files of an index, some users and some titles at a time.

  Args:
    folder: to be made; an index that is there is replaced.
    users: lengths [u], splits [u, 3] and item rows [sum of lengths] of u users
      each, in the order of users.
    titles: of some items each, in the order of items.
  """
  pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as stack:
    files = {
      name: stack.enter_context(pathlib.Path(folder, file).open("wb"))
      for name, (file, _) in _FILES.items()
    }

    def put(name: str, values: Any) -> None:
      _, dtype = _FILES[name]
      files[name].write(np.ascontiguousarray(values, dtype).data)

    # Where the next history and the next title begin. The files of starts have
    # one value more than there are users and items: the end of the last.
    next_start = {"history_starts": 0, "title_starts": 0}
    for name in next_start:
      put(name, [0])

    def put_starts(name: str, lengths: Any) -> None:
      starts = next_start[name] + np.cumsum(lengths, dtype=np.int64)
      put(name, starts)
      if len(starts):
        next_start[name] = int(starts[-1])

    for lengths, splits, item_rows in users:
      put_starts("history_starts", lengths)
      put("splits", splits)
      put("item_rows", item_rows)
    for some in titles:
      encoded = [title.encode() for title in some]
      put_starts("title_starts", [len(title) for title in encoded])
      files["title_bytes"].write(b"".join(encoded))


def of_records(
  items: Sequence[Mapping[str, Any]], users: Sequence[Mapping[str, Any]]
) -> Index:
  """Reads the index from every record, which suits a small data set."""
  titles = [items[row]["title"] for row in range(len(items))]  # UTF-8
  records = [users[row] for row in range(len(users))]
  histories = [np.asarray(record["rows"], np.int32) for record in records]
  splits = [[record[name] for name in Splits._fields] for record in records]
  return Index(
    history_starts=_starts(histories),
    # The zeros are none: of no users there is nothing to join.
    item_rows=np.concatenate([*histories, np.zeros(0, np.int32)]),
    splits=np.asarray(splits, np.int32).reshape(-1, len(Splits._fields)),
    title_starts=_starts(titles),
    title_bytes=np.frombuffer(b"".join(titles), np.uint8),
  )


def _starts(values: Sequence[Any]) -> np.ndarray:
  """Returns where each of some values begins when they are joined, and the end.

  [number of values + 1] int64.
  """
  ends = np.cumsum([len(value) for value in values])
  return np.concatenate([[0], ends]).astype(np.int64)
