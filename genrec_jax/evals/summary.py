"""The summary of an evaluation, summary.json, and what tables read from it.

A summary is

    {"users": n, "population": "held-out users",
     "warnings": [line, ...], "verdicts": [line, ...],
     "models": {row: {metric: {"mean", "low", "high"}}}, "shuffled": {row: ...},
     "differences": {"rl - sft": {metric: {"mean", "low", "high"}}, ...}}

"models" has the rows that are no models, too, see `genrec_jax.rows`. "shuffled"
holds models whose images were generated from another user's history;
differences name them 'rl shuffled'. Differences are paired, user by user.
"""

from collections.abc import Mapping, Sequence
import itertools
import json
import os
from typing import Any

import numpy as np

from genrec_jax import rows as rows_lib
from genrec_jax.core import files
from genrec_jax.evals import intervals
from genrec_jax.evals.intervals import Interval
from genrec_jax.evals.scores import METRICS

Summary = Mapping[str, Any]  # read back from JSON, too, so a plain mapping
SHUFFLED = " shuffled"


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
    population: who the users are, see `opening.population`.
    warnings: lines for the reader.
  """
  means = {
    name: intervals.bootstrap(values, seed=seed)
    for name, values in per_user.items()
  }
  shuffled = [name for name in means if name.endswith(SHUFFLED)]
  models = [name for name in means if name not in (*shuffled, *rows_lib.ROWS)]
  # Later rows against earlier ones, the nearest first.
  pairs = [(a, b) for i, a in enumerate(models) for b in models[:i][::-1]]
  # Does a model use the history at all?
  pairs += [(name.removesuffix(SHUFFLED), name) for name in shuffled]
  # Is it above chance, and does the judge see the difference?
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
      f"{a} - {b}": intervals.paired(per_user[a], per_user[b], seed=seed)
      for a, b in pairs
    },
  }


def write(workdir: str, summary: Summary) -> None:
  """Writes summary.json, whole or not at all; NaN is refused."""
  text = json.dumps(summary, indent=2, allow_nan=False)
  files.write(os.path.join(workdir, "summary.json"), text + "\n")


def rows(summary: Summary) -> list[tuple[str, str, Mapping[str, Interval]]]:
  """Returns (group, name, intervals) of each row in the order of the table.

  The groups are 'model', 'shuffled' and those of `rows.GROUPS`.
  """
  models = summary["models"]
  return (
    [("model", n, m) for n, m in models.items() if n not in rows_lib.ROWS]
    + [("shuffled", n, m) for n, m in summary.get("shuffled", {}).items()]
    + [
      (group, name, models[name])
      for group, names in rows_lib.GROUPS.items()
      for name in names
      if name in models
    ]
  )


def model_names(summary: Summary) -> list[str]:
  """Returns the names of the models in the order of the table."""
  return [name for group, name, _ in rows(summary) if group == "model"]


def columns(summary: Summary) -> list[str]:
  """Returns the metrics that some row has, in the order of METRICS."""
  present = {name for _, _, metrics in rows(summary) for name in metrics}
  return [name for name in METRICS if name in present]


def difference(
  summary: Summary, a: str, b: str, metric: str
) -> Interval | None:
  """Returns row a - row b of a metric, or None if it was not taken."""
  differences = summary.get("differences", {})
  if found := differences.get(f"{a} - {b}", {}).get(metric):
    return found
  # Only one direction is stored; the other is its mirror.
  if found := differences.get(f"{b} - {a}", {}).get(metric):
    return {
      "mean": -found["mean"],
      "low": -found["high"],
      "high": -found["low"],
    }
  return None


def sign(interval: Interval) -> int:
  """Returns 1 or -1 where an interval lies above or below 0, else 0."""
  return int(interval["low"] > 0) - int(interval["high"] < 0)


def best(summary: Summary) -> dict[str, str]:
  """Returns {metric: model} of models better than every other of the table.

  A model is better if the paired interval leaves out 0; where models tie, or
  neither end of a metric is better, there is none. Baselines and shuffled rows
  do not compete, and one model has no rival.
  """
  models = model_names(summary)
  found = {}
  for metric in columns(summary):
    better = METRICS[metric].better  # 1, -1, or 0: nobody wins
    rivals = [n for n in models if metric in summary["models"][n]]
    for name in rivals:
      leads = [
        difference(summary, name, other, metric)
        for other in rivals
        if other != name
      ]
      # All of them: a lead over one rival only is no first place.
      if better and leads and all(x and sign(x) == better for x in leads):
        found[metric] = name
  return found


def shown_differences(summary: Summary) -> list[str]:
  """Returns the differences to show: of each model to the one before it.

  And of the last model to its own row with shuffled histories.
  """
  models = model_names(summary)
  names = [f"{b} - {a}" for a, b in itertools.pairwise(models)]
  names += [f"{name} - {name}{SHUFFLED}" for name in models[-1:]]
  return [n for n in names if n in summary.get("differences", {})]


def short_name(difference: str) -> str:
  """Returns 'rl - rl shuffled' as 'rl - shuffled'."""
  name, other = difference.split(" - ")
  return f"{name} - {other.removeprefix(name + ' ')}"
