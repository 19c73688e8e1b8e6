"""The index of a data set: what is known of it before any record is read.

Users' item rows and split points and the items' titles, in plain arrays. A data
set of millions keeps them in files beside its records, which are mapped into
memory: opening them takes no time, and the processes of a machine share one
copy. Of a small data set without such files they are read from its records.
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
_TYPES = {
  "starts": "<i8",
  "rows": "<i4",
  "splits": "<i4",
  "title_starts": "<i8",
  "titles": "u1",
}


@dataclasses.dataclass(frozen=True)
class Index:
  """Users and titles of a data set; U users, E events, I items, B bytes."""

  starts: np.ndarray  # [U + 1] int64, where each user's rows begin
  rows: np.ndarray  # [E] int32, positions in `items`, oldest first
  splits: np.ndarray  # [U, 3] int32, in the order of `histories.Splits`
  title_starts: np.ndarray  # [I + 1] int64, where each title begins
  titles: np.ndarray  # [B] uint8, UTF-8
  folder: str = ""  # of the files; '' if in memory only

  def __reduce__(self):
    """Travels to other processes as the name of its folder, if it has one."""
    if self.folder:
      return read, (self.folder,)
    names = [field.name for field in dataclasses.fields(self)]
    return Index, tuple(getattr(self, name) for name in names)

  @functools.cached_property
  def held_out(self) -> bool:
    """Says whether there are users that are never trained on."""
    splits = self.splits_of(slice(None))  # [U] each
    return bool(np.any((splits.train_end == 0) & (splits.validation_start > 0)))

  def user_rows(self, user: int) -> np.ndarray:
    """Returns a user's positions in `items`, oldest first: [L] int32."""
    return self.rows[self.starts[user] : self.starts[user + 1]]

  def splits_of(self, users: int | slice) -> Splits:
    """Returns where the histories of users are cut, [] or [U] int32 each."""
    return Splits(*np.moveaxis(self.splits[users], -1, 0))

  def title(self, row: int) -> str:
    """Returns the title of an item."""
    start, end = self.title_starts[row : row + 2]
    return self.titles[start:end].tobytes().decode()


def read(folder: str | os.PathLike) -> Index:
  """Maps the files of an index into memory.

  Raises:
    OSError, ValueError: a file is missing or damaged.
  """
  found = {}
  for name, dtype in _TYPES.items():
    path = _path(folder, name)
    if not path.stat().st_size:  # cannot be mapped
      found[name] = np.zeros(0, dtype)
      continue
    # A plain view: every slice of a memmap costs microseconds more.
    found[name] = np.memmap(path, dtype, "r").view(np.ndarray)
  found["splits"] = found["splits"].reshape(-1, 3)
  index = Index(**found, folder=os.fspath(folder))
  ends = [(index.starts, index.rows), (index.title_starts, index.titles)]
  if len(index.starts) != len(index.splits) + 1 or any(
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
    users: lengths [u], splits [u, 3] and rows [sum of lengths] of u users each,
      in the order of users.
    titles: of some items each, in the order of items.
  """
  pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as stack:
    files = {
      name: stack.enter_context(_path(folder, name).open("wb"))
      for name in _TYPES
    }
    ends = {"starts": 0, "title_starts": 0}

    def put(name, values):
      files[name].write(np.ascontiguousarray(values, _TYPES[name]).data)

    def put_ends(name, lengths):
      found = ends[name] + np.cumsum(lengths, dtype=np.int64)
      put(name, found)
      ends[name] = found[-1] if len(found) else ends[name]

    for name in ends:
      put(name, [0])
    for lengths, splits, rows in users:
      put_ends("starts", lengths)
      put("splits", splits)
      put("rows", rows)
    for some in titles:
      encoded = [title.encode() for title in some]
      put_ends("title_starts", [len(title) for title in encoded])
      files["titles"].write(b"".join(encoded))


def of_records(
  items: Sequence[Mapping[str, Any]], users: Sequence[Mapping[str, Any]]
) -> Index:
  """Reads every record of a data set, which suits a small one."""
  titles = [items[row]["title"] for row in range(len(items))]
  records = [users[row] for row in range(len(users))]
  rows = [np.asarray(record["rows"], np.int32) for record in records]
  return Index(
    starts=_starts(rows),
    rows=np.concatenate([*rows, np.zeros(0, np.int32)]),
    splits=np.asarray(
      [[record[name] for name in Splits._fields] for record in records],
      np.int32,
    ).reshape(-1, 3),
    title_starts=_starts(titles),
    titles=np.frombuffer(b"".join(titles), np.uint8),
  )


def _starts(values):
  """Returns where each of some values begins when they are joined."""
  return np.concatenate([[0], np.cumsum([len(v) for v in values])]).astype(
    np.int64
  )


def _path(folder, name):
  return pathlib.Path(folder, f"{name}.bin")
