"""The file of votes: a vote a line, on the disk before it is acknowledged."""

from collections.abc import Iterable, Mapping
import fcntl
import json
import os
from pathlib import Path
import threading
from typing import Any

from genrec_jax.core.errors import UserError


class VoteFile:
  """Appends votes, each once. Safe from several threads.

  A process that is killed leaves at most one broken line, of votes that nobody
  was told were stored; whoever sends them again finds them stored or not.
  """

  def __init__(self, path: Path):
    """Opens a file, or makes it.

    Raises:
      UserError: another process has it open, or it cannot be written.
    """
    self.path = path
    try:
      self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
      raise UserError(
        f"cannot write {path}: {error.strerror}; choose another --votes"
      ) from None
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      os.close(self._file)
      raise UserError(
        f"{path} is in use by another process: stop that, or choose another"
        " --votes"
      ) from None
    self._lock = threading.Lock()
    self._ids: set[str] = set()
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
      # Of a process that was killed: its last line stays, broken, by itself.
      os.write(self._file, b"\n")
      os.fsync(self._file)
    self.stored = [vote for vote in map(_vote, content.splitlines()) if vote]
    self._ids = {vote["id"] for vote in self.stored}
    _sync_folder(path.parent)

  def __len__(self) -> int:
    """Returns the number of votes."""
    return len(self._ids)

  def add(self, votes: Iterable[Mapping[str, Any]]) -> int:
    """Stores those votes that are not stored yet; returns how many.

    All of them are on the disk when it returns.

    Raises:
      OSError: the disk is full, say; then none of them is stored.
    """
    # One writer at a time: two requests may bring the same vote at once.
    with self._lock:
      new = {v["id"]: v for v in votes if v["id"] not in self._ids}
      if new:
        lines = (json.dumps(v, separators=(",", ":")) for v in new.values())
        self._append("".join(f"{line}\n" for line in lines).encode())
        self._ids |= new.keys()
      return len(new)

  def close(self) -> None:
    """Closes the file."""
    os.close(self._file)

  def _append(self, data: bytes) -> None:
    before = os.fstat(self._file).st_size
    try:
      if os.write(self._file, data) != len(data):
        raise OSError("the disk is full")
      os.fsync(self._file)
    except OSError:
      os.ftruncate(self._file, before)  # no half of a batch
      raise


def _vote(line: bytes) -> dict[str, Any] | None:
  """Returns the vote of a line; None: a broken one."""
  try:
    vote = json.loads(line)
  except ValueError:
    return None
  return vote if isinstance(vote, dict) and "id" in vote else None


def _sync_folder(folder: Path) -> None:
  """Puts the name of a new file on the disk, too."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
