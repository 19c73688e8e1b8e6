"""The table that a finished evaluation prints."""

from collections.abc import Collection, Mapping, Sequence
import textwrap

from genrec_jax.evals import page_differences, page_frontier
from genrec_jax.evals.intervals import Interval
from genrec_jax.evals.metrics import brief, metric_of
from genrec_jax.evals.summary import (
  SHUFFLED,
  Summary,
  best,
  columns,
  rows,
)
from genrec_jax.rows import title

_NAME, _CELL = 15, 12  # characters; seven metrics fit in a hundred
_NARROW = 10  # of a column without intervals; eight fit
_WORDS = 100  # characters of a line in words
_SHUFFLED = " shuffled: images made from another user's history."


def table(summary: Summary) -> str:
  """Returns the tables for the terminal: the main one, and one of each judge.

  The main one has intervals under its means.
  """
  main, *others = brief(columns(summary))
  users = f"{summary['users']} users"
  lines = _block(summary, main.names, users, _CELL)
  population = summary.get("population", "users")
  lines.append(
    f"Means over {summary['users']} {population}; below each its 95 % bootstrap"
    " interval over users."
  )
  lines.append(
    "* better than every other model, by the paired differences."
    + _SHUFFLED * bool(summary.get("shuffled"))
  )
  for other in others:
    head = f"{other.title}:"
    if other.judged:
      head = f"By {other.title}, which rewards nothing; more in the report:"
    lines += ["", head]
    lines += _block(summary, other.names, users, _NARROW, spans=False)
  words = page_differences.lines(summary) + page_frontier.lines(summary)
  if words:
    lines.append("Differences user by user; p corrected for their number:")
    lines += [
      part
      for line in words
      for part in textwrap.wrap(
        line, _WORDS, initial_indent="  ", subsequent_indent="    "
      )
    ]
  lines += [f"note: {line}" for line in summary.get("verdicts", ())]
  notes = (*summary.get("alarms", ()), *summary.get("warnings", ()))
  lines += [f"warning: {line}" for line in notes]
  return "\n".join(line.rstrip() for line in lines)


def _block(
  summary: Summary,
  metrics: Sequence[str],
  corner: str,
  width: int,
  spans: bool = True,
) -> list[str]:
  """Returns the lines of a table: heads, and all rows in their groups.

  Args:
    summary: see `summary`.
    metrics: the columns.
    corner: what stands above the rows' names.
    width: of a column, characters.
    spans: put a line with the intervals under each row.
  """
  heads = [metric_of(name).head.rsplit(" ", 1) for name in metrics]
  rule = "-" * (_NAME + width * len(metrics))
  # Two lines of heads: titles of two words are wider than a column.
  lines = [
    _line("", [h[0] if len(h) > 1 else "" for h in heads], width),
    _line(corner, [h[-1] for h in heads], width),
  ]
  winners, group = best(summary), None
  for kind, name, intervals in rows(summary):
    if not intervals.keys() & set(metrics):  # of titles: who writes none
      continue
    if kind != group:  # models | shuffled | those of `rows.GROUPS`
      lines.append(rule)
      group = kind
    # Shuffled rows have names of models, and do not compete.
    won = {m for m in metrics if kind == "model" and winners.get(m) == name}
    label = name if kind in ("model", "shuffled") else title(name)
    label += SHUFFLED if kind == "shuffled" else ""
    lines.append(_line(label, _means(metrics, intervals, won), width))
    if spans:
      lines.append(_line("", _spans(metrics, intervals), width))
  return lines


def _means(
  metrics: Sequence[str],
  intervals: Mapping[str, Interval],
  won: Collection[str],
) -> list[str]:
  """Returns the means of a row, those `won` with a star."""
  return [
    f"{intervals[metric]['mean']:.3f}{'*' if metric in won else ''}"
    if metric in intervals
    else "-"
    for metric in metrics
  ]


def _spans(
  metrics: Sequence[str], intervals: Mapping[str, Interval]
) -> list[str]:
  """Returns the intervals of a row."""
  cells = [intervals.get(metric) for metric in metrics]
  return [
    f"{_short(cell['low'])} {_short(cell['high'])}" if cell else ""
    for cell in cells
  ]


def _line(label: str, cells: Sequence[str], width: int) -> str:
  return label.ljust(_NAME) + "".join(cell.rjust(width) for cell in cells)


def _short(value: float) -> str:
  """Writes 0.123 as .123: seven intervals have to fit on a line."""
  text = f"{value:.3f}"
  return text.replace("0.", ".", 1) if "0." in text[:3] else text[:-1]
