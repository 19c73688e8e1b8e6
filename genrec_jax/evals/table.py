"""What is left of an evaluation: summary.json and a table.

A summary is

    {"users": n, "population": "held-out users",
     "warnings": [line, ...], "verdicts": [line, ...],
     "models": {row: {metric: {"mean", "low", "high"}}}, "shuffled": {row: ...},
     "differences": {"rl - sft": {metric: {"mean", "low", "high"}}, ...}}

"shuffled" holds models whose images were generated from another user's history.
Differences are paired, user by user; rows of "shuffled" are named 'rl shuffled'
there.
"""

from collections.abc import Mapping, Sequence
import itertools
import json
import os
from typing import Any

import numpy as np

from genrec_jax.core import files
from genrec_jax.evals import baselines, scores
from genrec_jax.evals.scores import METRICS
from genrec_jax.runtime import metrics as metrics_lib

Summary = Mapping[str, Any]
Cell = Mapping[str, float]  # 'mean', 'low', 'high'
SHUFFLED = " shuffled"
_NAME, _CELL = 15, 12  # characters


def summarise(
  per_user: Mapping[str, Mapping[str, np.ndarray]],
  *,
  seed: int,
  population: str,
  warnings: Sequence[str] = (),
) -> dict[str, Any]:
  """Returns the summary of all rows' scores.

  Args:
    per_user: {row: {metric: [U] float64}} of models in the order of the table,
      of 'MODEL shuffled' and of baselines; the same users in all of them.
    seed: of the bootstrap.
    population: whom the users are of, see `evaluator.population`.
    warnings: lines for the reader.
  """
  means = {
    name: scores.bootstrap(values, seed=seed)
    for name, values in per_user.items()
  }
  shuffled = [name for name in means if name.endswith(SHUFFLED)]
  models = [name for name in means if name not in (*shuffled, *baselines.NAMES)]
  # Later rows against earlier ones, the nearest first.
  pairs = [(a, b) for i, a in enumerate(models) for b in models[:i][::-1]]
  pairs += [(name.removesuffix(SHUFFLED), name) for name in shuffled]
  pairs += [(name, "random_item") for name in (*models, "real_next_item")]
  return {
    "users": len(next(iter(next(iter(per_user.values())).values()))),
    "population": population,
    "warnings": list(warnings),
    "models": {
      name: values for name, values in means.items() if name not in shuffled
    },
    "shuffled": {name.removesuffix(SHUFFLED): means[name] for name in shuffled},
    "differences": {
      f"{a} - {b}": scores.paired(per_user[a], per_user[b], seed=seed)
      for a, b in pairs
    },
  }


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


def difference(summary: Summary, a: str, b: str, metric: str) -> Cell | None:
  """Returns row a - row b of a metric, or None if it was not taken."""
  differences = summary.get("differences", {})
  if cell := differences.get(f"{a} - {b}", {}).get(metric):
    return cell
  if cell := differences.get(f"{b} - {a}", {}).get(metric):
    return {"mean": -cell["mean"], "low": -cell["high"], "high": -cell["low"]}
  return None


def best(summary: Summary) -> dict[str, str]:
  """Returns {metric: model}: better than every other model of the table.

  Better is what a paired interval says that leaves 0 out; where models tie, or
  neither end is better, there is none. Baselines and shuffled rows do not
  compete, and one model has no rival.
  """
  models = [n for group, n, _ in rows(summary) if group == "model"]
  found = {}
  for metric in columns(summary):
    better = METRICS[metric].better
    rivals = [n for n in models if metric in summary["models"][n]]
    for name in rivals:
      cells = [
        difference(summary, name, other, metric)
        for other in rivals
        if other != name
      ]
      if better and cells and all(c and sign(c) == better for c in cells):
        found[metric] = name
  return found


def sign(cell: Cell) -> int:
  """Returns 1 or -1 where an interval lies above or below 0, else 0."""
  return int(cell["low"] > 0) - int(cell["high"] < 0)


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
    label = name + (SHUFFLED if kind == "shuffled" else "")
    lines += [_line(label, means), _line("", spans)]
  shown = steps(summary)
  if shown:
    lines.append("-" * (_NAME + _CELL * len(names)))
  for label in shown:
    cells = [summary["differences"][label].get(metric) for metric in names]
    shown_means = [f"{c['mean']:+.3f}" if c else "-" for c in cells]
    lines.append(_line(short(label), shown_means))
    spans = [
      f"{_short(c['low'])} {_short(c['high'])}" if c else "" for c in cells
    ]
    lines.append(_line("", spans))
  population = summary.get("population", "users")
  lines.append(
    f"Means over {summary['users']} {population}; below each its 95 % bootstrap"
    " interval over users."
  )
  lines.append(
    "* better than every other model, and differences: paired, user by user."
    " shuffled: images made from another user's history."
  )
  lines += [f"note: {line}" for line in summary.get("verdicts", ())]
  lines += [f"warning: {line}" for line in summary.get("warnings", ())]
  return "\n".join(line.rstrip() for line in lines)


def steps(summary: Summary) -> list[str]:
  """Returns the names of differences to show: of models that follow another.

  And of the last model to what it makes of another user's history.
  """
  models = [n for group, n, _ in rows(summary) if group == "model"]
  names = [f"{b} - {a}" for a, b in itertools.pairwise(models)]
  names += [f"{name} - {name}{SHUFFLED}" for name in models[-1:]]
  return [n for n in names if n in summary.get("differences", {})]


def short(difference: str) -> str:
  """Returns 'rl - rl shuffled' as 'rl - shuffled'."""
  name, other = difference.split(" - ")
  return f"{name} - {other.removeprefix(name + ' ')}"


def write_summary(workdir: str, summary: Summary) -> None:
  """Writes summary.json, whole or not at all; NaN is refused."""
  text = json.dumps(summary, indent=2, allow_nan=False)
  files.write(os.path.join(workdir, "summary.json"), text + "\n")


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
