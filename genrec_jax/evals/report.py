"""What is left of an evaluation: summary.json, a table, report.html.

A summary is `{"users": n, "models": {row: {metric: {"mean", "low", "high"}}},
"shuffled": {row: ...}}`, where "shuffled" holds models that were shown another
user's history.
"""

from collections.abc import Mapping, Sequence
import json
import os
from typing import Any

from genrec_jax.core import metrics as metrics_lib
from genrec_jax.core import workdir as workdir_lib
from genrec_jax.evals import baselines
from genrec_jax.evals.scores import METRICS

Summary = Mapping[str, Any]
_SHUFFLED = " shuffled"
_NAME, _CELL = 15, 11  # characters


def rows(summary: Summary) -> list[tuple[str, str, Mapping[str, Any]]]:
  """Returns (group, name, metrics) of each row in the order of the table.

  The groups are 'model', 'shuffled' and 'baseline'.
  """
  models = summary["models"]
  return (
    [("model", n, m) for n, m in models.items() if n not in baselines.NAMES]
    + [("shuffled", n, m) for n, m in summary.get("shuffled", {}).items()]
    + [("baseline", n, models[n]) for n in baselines.NAMES if n in models]
  )


def columns(summary: Summary) -> list[str]:
  """Returns the metrics that some row has, in the order of METRICS."""
  present = {name for _, _, metrics in rows(summary) for name in metrics}
  return [name for name in METRICS if name in present]


def best(summary: Summary) -> dict[str, str]:
  """Returns {metric: model}, the best of the models where one end is best.

  Baselines and shuffled rows do not compete, and one model has no rival.
  """
  models = [(n, m) for group, n, m in rows(summary) if group == "model"]
  found = {}
  for metric in columns(summary):
    sign = METRICS[metric].better
    means = {n: sign * m[metric]["mean"] for n, m in models if metric in m}
    if sign and len(means) > 1:
      found[metric] = max(means, key=means.__getitem__)
  return found


def table(summary: Summary) -> str:
  """Returns the table for the terminal: means, and intervals under them."""
  names = columns(summary)
  heads = [METRICS[name].title.rsplit(" ", 1) for name in names]
  lines = [
    _line("", [h[0] if len(h) > 1 else "" for h in heads]),
    _line(f"{summary['users']} users", [h[-1] for h in heads]),
  ]
  winners, group = best(summary), None
  for kind, name, metrics in rows(summary):
    if kind != group:
      lines.append("-" * (_NAME + _CELL * len(names)))
      group = kind
    cells = [metrics.get(metric) for metric in names]
    marks = ["*" if winners.get(metric) == name else "" for metric in names]
    if kind != "model":
      marks = [""] * len(names)
    means = [
      f"{cell['mean']:.3f}{mark}" if cell else "-"
      for cell, mark in zip(cells, marks, strict=True)
    ]
    spans = [
      f"{_short(c['low'])} {_short(c['high'])}" if c else "" for c in cells
    ]
    label = name + (_SHUFFLED if kind == "shuffled" else "")
    lines += [_line(label, means), _line("", spans)]
  lines.append(
    "Below each mean its 95 % bootstrap interval over users. * best model."
    " shuffled: shown another user's history."
  )
  return "\n".join(line.rstrip() for line in lines)


def write_summary(workdir: str, summary: Summary) -> None:
  """Writes summary.json, whole or not at all; NaN is refused."""
  text = json.dumps(summary, indent=2, allow_nan=False)
  workdir_lib.write(os.path.join(workdir, "summary.json"), text + "\n")


def curves(workdir: str) -> dict[str, list[tuple[int, float]]]:
  """Returns {metric: [(step, value), ...]} of a workdir's metrics.jsonl.

  Values that were not finite, null in the file, are left out.
  """
  found: dict[str, list[tuple[int, float]]] = {}
  for record in metrics_lib.read(workdir):
    for name, value in record.items():
      if name != "step" and value is not None:
        found.setdefault(name, []).append((record["step"], value))
  return found


def _line(label: str, cells: Sequence[str]) -> str:
  return label.ljust(_NAME) + "".join(cell.rjust(_CELL) for cell in cells)


def _short(value: float) -> str:
  """Writes 0.123 as .123: seven intervals have to fit on a line."""
  text = f"{value:.3f}"
  return text.replace("0.", ".", 1) if "0." in text[:3] else text[:-1]
