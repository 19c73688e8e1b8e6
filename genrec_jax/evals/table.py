"""The table that a finished evaluation prints."""

from collections.abc import Collection, Mapping, Sequence
import textwrap

from genrec_jax.evals import page_differences, page_frontier
from genrec_jax.evals.intervals import Interval
from genrec_jax.evals.metrics import metric_of
from genrec_jax.evals.summary import (
  SHUFFLED,
  Summary,
  best,
  columns,
  rows,
)
from genrec_jax.rows import title

_NAME, _CELL = 15, 12  # characters; seven metrics fit in a hundred
_WORDS = 100  # characters of a line in words


def table(summary: Summary) -> str:
  """Returns the table for the terminal: means, and intervals under them."""
  names = columns(summary)
  heads = [metric_of(name).head.rsplit(" ", 1) for name in names]
  rule = "-" * (_NAME + _CELL * len(names))
  # Two lines of heads: titles of two words are wider than a column.
  lines = [
    _line("", [h[0] if len(h) > 1 else "" for h in heads]),
    _line(f"{summary['users']} users", [h[-1] for h in heads]),
  ]
  winners, group = best(summary), None
  for kind, name, intervals in rows(summary):
    if kind != group:  # models | shuffled | those of `rows.GROUPS`
      lines.append(rule)
      group = kind
    # Shuffled rows have names of models, and do not compete.
    won = {m for m in names if kind == "model" and winners.get(m) == name}
    label = name if kind in ("model", "shuffled") else title(name)
    label += SHUFFLED if kind == "shuffled" else ""
    lines += _row(label, names, intervals, won)
  population = summary.get("population", "users")
  lines.append(
    f"Means over {summary['users']} {population}; below each its 95 % bootstrap"
    " interval over users."
  )
  lines.append(
    "* better than every other model, by the paired differences. shuffled:"
    " images made from another user's history."
  )
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
  lines += [f"warning: {line}" for line in summary.get("warnings", ())]
  return "\n".join(line.rstrip() for line in lines)


def _row(
  label: str,
  metrics: Sequence[str],
  intervals: Mapping[str, Interval],
  won: Collection[str] = (),
) -> list[str]:
  """Returns two lines: means, those `won` with a star, and intervals."""
  means, spans = [], []
  for metric in metrics:
    cell = intervals.get(metric)
    star = "*" if metric in won else ""
    means.append(f"{cell['mean']:.3f}{star}" if cell else "-")
    ends = cell and (_short(cell["low"]), _short(cell["high"]))
    spans.append(" ".join(ends) if ends else "")
  return [_line(label, means), _line("", spans)]


def _line(label: str, cells: Sequence[str]) -> str:
  return label.ljust(_NAME) + "".join(cell.rjust(_CELL) for cell in cells)


def _short(value: float) -> str:
  """Writes 0.123 as .123: seven intervals have to fit on a line."""
  text = f"{value:.3f}"
  return text.replace("0.", ".", 1) if "0." in text[:3] else text[:-1]
