"""Limits of how often one address may ask; held in memory, never stored."""

from collections.abc import Callable
import threading
import time


class RateLimit:
  """A bucket of tokens for each address: a burst, then so many a second."""

  def __init__(
    self,
    burst: float,
    per_second: float,
    *,
    most: int = 10_000,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Starts with full buckets.

    Args:
      burst: requests at once.
      per_second: requests a second in the long run.
      most: addresses that are remembered.
      clock: seconds.
    """
    self._burst, self._rate, self._most = burst, per_second, most
    self._clock = clock
    self._lock = threading.Lock()
    self._buckets: dict[str, tuple[float, float]] = {}  # tokens, when

  def wait(self, address: str) -> float:
    """Takes a token: returns 0, or the seconds until there is one."""
    with self._lock:
      now = self._clock()
      # An address that is not known yet has a full bucket.
      tokens, then = self._buckets.pop(address, (self._burst, now))
      tokens = min(self._burst, tokens + (now - then) * self._rate)
      allowed = tokens >= 1
      if len(self._buckets) >= self._most:  # forgets who asked longest ago
        self._buckets.pop(next(iter(self._buckets)))
      # At the end: the order is that of the last request.
      self._buckets[address] = (tokens - allowed, now)
      return 0.0 if allowed else (1 - tokens) / self._rate
