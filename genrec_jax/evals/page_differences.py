"""Differences of rows in words: for report.html, and for the terminal."""

from collections.abc import Mapping
from typing import NamedTuple

from genrec_jax.evals.differences import Difference
from genrec_jax.evals.metrics import brief, metric_of
from genrec_jax.evals.summary import (
  Summary,
  columns,
  headline,
  short_name,
  shown_differences,
  sign,
)

# By (sign of the difference, which end of the metric is better).
_WORDS = {
  (1, 1): "better",
  (-1, -1): "better",
  (-1, 1): "worse",
  (1, -1): "worse",
  (1, 0): "higher",
  (-1, 0): "lower",
}


class Cell(NamedTuple):
  """A difference, its p in words, and what it means; '': it may be none."""

  interval: Difference
  p: str
  word: str


class Row(NamedTuple):
  """A metric, and its differences in the order of the comparisons."""

  title: str
  cells: list[Cell | None]


class Compared(NamedTuple):
  """The table of differences: comparisons as columns, metrics as rows."""

  names: list[str]
  rows: list[Row]


def section(summary: Summary) -> Compared | None:
  """Returns the differences that the page shows; None if there are none."""
  shown = shown_differences(summary)
  known = [summary["differences"][name] for name in shown]
  rows = [
    Row(
      metric_of(metric).title,
      [cell(x[metric], metric) if metric in x else None for x in known],
    )
    for metric in columns(summary)
    if any(metric in cells for cells in known)  # sets have no users
  ]
  return Compared([short_name(n) for n in shown], rows) if shown else None


def lines(summary: Summary) -> list[str]:
  """Returns the same in words, a line for each comparison."""
  first = headline(summary)
  # As the terminal's tables have: of all of them the lines would be long.
  told = {name for table in brief(columns(summary)) for name in table.names}
  found = []
  for name in shown_differences(summary):
    cells = summary["differences"][name]
    known = {metric: cells[metric] for metric in cells if metric in told}
    found.append(f"{short_name(name)}: {sentence(known, first)}")
  return found


def sentence(comparison: Mapping[str, Difference], first: str) -> str:
  """Returns the differences of a comparison in words.

  'preference match +0.046 (+0.035 to +0.057, p < .001), better; better: future
  mean +0.033; not told apart: text': the metric `first` comes first and alone
  has its interval.
  """
  cells = {metric: cell(value, metric) for metric, value in comparison.items()}
  parts = []
  if first in cells:
    parts.append(_whole(first, cells.pop(first)))
  for one in ("better", "worse", "higher", "lower"):
    some = [_short(m, c) for m, c in cells.items() if c.word == one]
    parts += [f"{one}: {', '.join(some)}"] if some else []
  level = [metric_of(m).title for m, c in cells.items() if not c.word]
  parts += [f"not told apart: {', '.join(level)}"] if level else []
  return "; ".join(parts)


def word(cell: Difference, metric: str) -> str:
  """Returns 'better', 'worse', 'higher', 'lower', or '' where it may be 0."""
  return _WORDS.get((sign(cell), metric_of(metric).better), "")


def p_in_words(p: float) -> str:
  """Returns 'p < .001', 'p = .034' or 'p = 1'."""
  if p < 0.001:
    return "p < .001"
  return f"p = {p:.3f}".replace("0.", ".") if p < 0.9995 else "p = 1"


def cell(difference: Difference, metric: str) -> Cell:
  """Returns a difference with its p in words, and what it means."""
  # A run made before p was taken has none.
  p = p_in_words(difference["p_holm"]) if "p_holm" in difference else ""
  return Cell(difference, p, word(difference, metric))


def _whole(metric: str, cell: Cell) -> str:
  ends = f"{cell.interval['low']:+.3f} to {cell.interval['high']:+.3f}"
  inside = f"{ends}, {cell.p}" if cell.p else ends
  means = cell.word or "not told apart"
  return f"{_short(metric, cell)} ({inside}), {means}"


def _short(metric: str, cell: Cell) -> str:
  return f"{metric_of(metric).title} {cell.interval['mean']:+.3f}"
