"""A scale of a chart: values on an axis as places in pixels."""

from collections.abc import Iterable
from typing import NamedTuple


class Scale(NamedTuple):
  """An axis from `low` at pixel `start` to `high` at pixel `end`."""

  low: float
  high: float
  start: float
  end: float

  def place(self, value: float) -> float:
    """Returns where a value lies."""
    share = (value - self.low) / (self.high - self.low)
    return self.start + share * (self.end - self.start)

  def ticks(self, count: int) -> list[tuple[float, float]]:
    """Returns (place, value) of evenly spaced values, the ends among them."""
    step = (self.high - self.low) / (count - 1)
    values = [self.low + i * step for i in range(count)]
    return [(self.place(value), value) for value in values]


def around(values: Iterable[float], start: float, end: float) -> Scale:
  """Returns a scale a little wider than some values, and never 0 wide."""
  values = list(values)
  low, high = min(values), max(values)
  # A range of rounding errors only would show noise as a curve.
  if high - low < 1e-9 * max(abs(high), 1):
    return Scale(low - 0.5, high + 0.5, start, end)
  pad = 0.06 * (high - low)
  return Scale(low - pad, high + pad, start, end)
