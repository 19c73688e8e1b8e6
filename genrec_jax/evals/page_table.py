"""Rows of the results table of report.html: numbers, bars and colours."""

from collections.abc import Mapping, Sequence
import itertools
from typing import NamedTuple

from genrec_jax import rows as rows_lib
from genrec_jax.evals import metrics as metrics_lib
from genrec_jax.evals.contrasts import SHUFFLED
from genrec_jax.evals.intervals import Interval
from genrec_jax.evals.metrics import Metric, metric_of
from genrec_jax.evals.summary import (
  Summary,
  best,
  columns,
  model_names,
  rows,
)

_LEFT, _WIDTH = 4, 76  # of a bar, pixels
_COLOURS = 4  # of models in page.css; later models share the last


class Cell(NamedTuple):
  """A mean and its interval."""

  interval: Interval
  bar: Interval  # the same as places on the column's scale, pixels
  best: bool  # better than every other model
  images: int = 0  # of a distance that depends on their number; 0: does not


class Row(NamedTuple):
  """A model, the same with shuffled histories, or a baseline."""

  name: str
  note: str
  colour: str  # CSS
  hollow: bool
  cells: list[Cell | None]


class Table(NamedTuple):
  """Metrics that stand side by side, and all rows."""

  title: str  # a heading; '': of the reward's CLIP's metrics and the truth's
  metrics: list[Metric]
  groups: list[tuple[str, list[Row]]]

  @property
  def shuffled(self) -> bool:
    """Whether there are rows of shuffled histories, which need a word."""
    return any(group == "shuffled" for group, _ in self.groups)


def colours(summary: Summary) -> dict[str, str]:
  """Returns a CSS colour per model, in the order of the table."""
  return {
    name: f"var(--row-{min(i, _COLOURS - 1)})"
    for i, name in enumerate(model_names(summary))
  }


def tables(summary: Summary) -> list[Table]:
  """Returns the tables of the page: the main one, and two of each judge."""
  return [
    Table(
      f"By {table.title}" if table.judged else table.title,
      [metric_of(name) for name in table.names],
      groups(summary, table.names),
    )
    for table in metrics_lib.tables(columns(summary))
  ]


def groups(
  summary: Summary, metrics: Sequence[str]
) -> list[tuple[str, list[Row]]]:
  """Returns (group, rows) in the order of the table; see `summary.rows`."""
  winners, by_model = best(summary), colours(summary)
  scales = {metric: _scale(summary, metric) for metric in metrics}

  def row(group: str, name: str, values: Mapping[str, Interval]) -> Row:
    shuffled = group == "shuffled"
    cells: list[Cell | None] = []  # None: the row has no such metric
    for metric in metrics:
      interval = values.get(metric)
      # Shuffled rows have names of models, and do not compete.
      won = group == "model" and winners.get(metric) == name
      cells.append(
        Cell(
          interval,
          _bar(interval, scales[metric]),
          won,
          _images(summary, name + SHUFFLED if shuffled else name, metric),
        )
        if interval
        else None
      )
    return Row(
      name=rows_lib.title(name),
      note="with shuffled histories" if shuffled else rows_lib.note(name),
      colour=by_model.get(name, "var(--row-baseline)"),
      hollow=shuffled,
      cells=cells,
    )

  # Of titles and captions: not who writes and reads none.
  shown = [one for one in rows(summary) if one[2].keys() & set(metrics)]
  return [
    (group, [row(*one) for one in members])
    for group, members in itertools.groupby(shown, lambda one: one[0])
  ]


def _images(summary: Summary, row: str, metric: str) -> int:
  """Returns of how many images a row's distance is, if that matters, or 0."""
  cell = summary.get("sets", {}).get(row, {}).get(metric, {})
  return int(cell.get("images", 0))


def _scale(summary: Summary, metric: str) -> tuple[float, float]:
  """Returns the ends of a column's scale.

  copy_last is left out: it is 1 or so by construction and would squeeze the
  rest. It is shown at the end it runs over.
  """
  alone = not any(
    metric in values for _, name, values in rows(summary) if name != "copy_last"
  )
  cells = [
    values[metric]
    for _, name, values in rows(summary)
    if metric in values and (name != "copy_last" or alone)
  ]
  low, high = min(c["low"] for c in cells), max(c["high"] for c in cells)
  return low, high if high > low else low + 1  # divides, so never 0 wide


def _bar(interval: Interval, scale: tuple[float, float]) -> Interval:
  low, high = scale

  def place(value: float) -> float:
    return _LEFT + _WIDTH * min(max((value - low) / (high - low), 0), 1)

  return {
    "mean": place(interval["mean"]),
    "low": place(interval["low"]),
    "high": place(interval["high"]),
  }
