"""A cache of images, bounded by the bytes that they take."""

from collections.abc import Callable
import threading

import numpy as np

# An item's image in several forms, which may be one and the same array.
Forms = tuple[np.ndarray, ...]


class Recent:
  """Images of the rows that were asked for last; threads may share it.

  Counted in bytes, not in images as `functools.lru_cache` does: some take twice
  as many as others, and with a number that fits the largest half of the memory
  would stay unused.
  """

  def __init__(self, read: Callable[[int], Forms], most: int):
    """Starts with nothing.

    Args:
      read: returns a row's image.
      most: bytes to keep; the one that was read last stays whatever it takes.
    """
    self._read, self._most = read, most
    self._kept: dict[int, Forms] = {}  # those used last at the end
    self._bytes = 0
    self._lock = threading.Lock()

  def __call__(self, row: int) -> Forms:
    """Returns a row's image, read now or before."""
    with self._lock:
      found = self._kept.pop(row, None)
      if found is not None:
        self._kept[row] = found
        return found
    # Without the lock: other threads read others meanwhile.
    found = self._read(row)
    with self._lock:
      if row not in self._kept:  # else another thread was as fast
        self._kept[row] = found
        self._bytes += _bytes(found)
      while self._bytes > self._most and len(self._kept) > 1:
        oldest = next(iter(self._kept))
        self._bytes -= _bytes(self._kept.pop(oldest))
    return found


def _bytes(forms: Forms) -> int:
  """Returns what the arrays take, each counted once."""
  return sum({id(array): array.nbytes for array in forms}.values())
