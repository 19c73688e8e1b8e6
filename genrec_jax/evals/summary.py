"""The summary of an evaluation, summary.json, and what tables read from it.

A summary is

    {"users": n, "population": "held-out users",
     "warnings": [line, ...], "verdicts": [line, ...], "alarms": [line, ...],
     "models": {row: {metric: {"mean", "low", "high"}}}, "shuffled": {row: ...},
     "differences": {"rl - sft": {metric: {"mean", "low", "high", "p",
                                           "p_holm"}}, ...},
     "sets": {row: {"kid_JUDGE": {"mean", "low", "high"}, "cmmd_JUDGE": ...,
                    "frechet_JUDGE": {"mean", "images", "real"}}}}

"models" has the rows that are no models, too, see `genrec_jax.rows`. "shuffled"
holds models whose images were generated from another user's history;
differences and sets name them 'rl shuffled'. Differences are paired, user by
user; see `differences`.
"""

from collections.abc import Mapping, Sequence
import json
import os
import re
from typing import Any

import numpy as np

from genrec_jax import rows as rows_lib
from genrec_jax.core import files
from genrec_jax.evals import contrasts, differences, intervals
from genrec_jax.evals.contrasts import SHUFFLED
from genrec_jax.evals.differences import Difference
from genrec_jax.evals.intervals import Interval
from genrec_jax.evals.metrics import in_order, metric_of

Summary = Mapping[str, Any]  # read back from JSON, too, so a plain mapping
SIGNIFICANT = 0.05  # of p after Holm's correction


def summarise(
  per_user: Mapping[str, Mapping[str, np.ndarray]],
  *,
  seed: int,
  population: str,
  warnings: Sequence[str] = (),
  sets: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
) -> dict[str, Any]:
  """Returns the summary of all rows' scores.

  Args:
    per_user: {row: {metric: [U] float64}} of models in the order of the table,
      of 'MODEL shuffled' and of baselines; the same users in all of them.
    seed: of the bootstrap.
    population: who the users are, see `opening.population`.
    warnings: lines for the reader.
    sets: {row: see `Scorer.sets`}, of rows of `per_user`.
  """
  # All in one call: rows of the same users share their resamples.
  cells = intervals.bootstrap(
    {
      (n, m): values for n, row in per_user.items() for m, values in row.items()
    },
    seed=seed,
  )
  means: dict[str, dict[str, Interval]] = {name: {} for name in per_user}
  for (name, metric), cell in cells.items():
    means[name][metric] = cell
  shuffled = [name for name in means if name.endswith(SHUFFLED)]
  models = [name for name in means if name not in (*shuffled, *rows_lib.ROWS)]
  recommenders = [name for name in means if name in rows_lib.RECOMMENDERS]
  pairs = [
    pair
    for pair in contrasts.pairs(models, shuffled, recommenders)
    if set(pair) <= means.keys()  # of prompts there are no rows of items
  ]
  return {
    "users": len(next(iter(next(iter(per_user.values())).values()))),
    "population": population,
    "warnings": list(warnings),
    "models": {
      name: values for name, values in means.items() if name not in shuffled
    },
    "shuffled": {name.removesuffix(SHUFFLED): means[name] for name in shuffled},
    "differences": differences.paired(per_user, pairs, seed=seed),
    "sets": dict(sets or {}),
  }


def write(workdir: str, summary: Summary) -> None:
  """Writes summary.json, whole or not at all; NaN is refused."""
  text = json.dumps(summary, indent=2, allow_nan=False)
  files.write(os.path.join(workdir, "summary.json"), text + "\n")


def rows(summary: Summary) -> list[tuple[str, str, Mapping[str, Interval]]]:
  """Returns (group, name, intervals) of each row in the order of the table.

  The groups are 'model', 'shuffled' and those of `rows.GROUPS`. Distances of
  sets are among the intervals; those without one are as wide as their mean.
  """
  models = summary["models"]
  # The table from top to bottom.
  found = (
    [("model", n, m) for n, m in models.items() if n not in rows_lib.ROWS]
    + [("shuffled", n, m) for n, m in summary.get("shuffled", {}).items()]
    + [
      (group, name, models[name])
      for group, names in rows_lib.GROUPS.items()
      for name in names
      if name in models
    ]
  )
  return [(group, n, m | _sets(summary, group, n)) for group, n, m in found]


def _sets(summary: Summary, group: str, name: str) -> dict[str, Interval]:
  """Returns the distances of a row's set, each with two ends."""
  row = name + SHUFFLED if group == "shuffled" else name
  return {
    metric: {
      "mean": cell["mean"],
      "low": cell.get("low", cell["mean"]),
      "high": cell.get("high", cell["mean"]),
    }
    for metric, cell in summary.get("sets", {}).get(row, {}).items()
  }


def model_names(summary: Summary) -> list[str]:
  """Returns the names of the models in the order of the table."""
  return [name for group, name, _ in rows(summary) if group == "model"]


def columns(summary: Summary) -> list[str]:
  """Returns the metrics that some row has, in their order."""
  return in_order(name for _, _, metrics in rows(summary) for name in metrics)


def difference(
  summary: Summary, a: str, b: str, metric: str
) -> Difference | None:
  """Returns row a - row b of a metric, or None if it was not taken."""
  known = summary.get("differences", {})
  if found := known.get(f"{a} - {b}", {}).get(metric):
    return found
  # Only one direction is stored; the other is its mirror.
  mirror: Difference | None = known.get(f"{b} - {a}", {}).get(metric)
  return mirror and {
    **mirror,
    "mean": -mirror["mean"],
    "low": -mirror["high"],
    "high": -mirror["low"],
  }


def sign(cell: Difference) -> int:
  """Returns 1 or -1 where a difference lies above or below 0, else 0.

  Its interval leaves out 0, and so does its p after Holm's correction. A run
  made before p was taken has the interval alone.
  """
  if cell.get("p_holm", 0) >= SIGNIFICANT:
    return 0
  return int(cell["low"] > 0) - int(cell["high"] < 0)


def best(summary: Summary) -> dict[str, str]:
  """Returns {metric: model} of models better than every other of the table.

  A model is better by `sign` of the paired differences; where models tie, or
  neither end of a metric is better, there is none. Baselines and shuffled rows
  do not compete, and one model has no rival.
  """
  models = model_names(summary)
  found = {}
  for metric in columns(summary):
    better = metric_of(metric).better  # 1, -1, or 0: nobody wins
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


def headline(summary: Summary) -> str:
  """Returns the metric that says most in one number; '' if none is there.

  What the user wants, which only the synthetic world knows, or else whether the
  image points to what comes next: by a judge that gave no reward, if there is
  one.
  """
  found = columns(summary)
  future = [m for m in found if re.fullmatch(r"future_\w+_mean", m)]
  # CLIP rewards; a judge that did not says more.
  judged = [m for m in future if m != "future_clip_mean"]
  candidates = [m for m in found if m == "preference_match"] + judged + future
  return candidates[0] if candidates else ""


def best_recommender(summary: Summary) -> str | None:
  """Returns the recommender that is best by the headline, if there is any.

  It is chosen on the users that it is then compared on, in its own favour.
  """
  metric = headline(summary)
  means = {
    name: cells[metric]["mean"]
    for group, name, cells in rows(summary)
    if group == "recommender" and metric in cells
  }
  # The first of equals, in the order of the table.
  return max(means, key=lambda name: means[name]) if means else None


def shown_differences(summary: Summary) -> list[str]:
  """Returns the differences to show; see `contrasts.shown`."""
  names = contrasts.shown(model_names(summary), best_recommender(summary))
  return [n for n in names if n in summary.get("differences", {})]


def short_name(difference: str) -> str:
  """Returns 'rl - rl shuffled' as 'rl - shuffled', rows by their titles."""
  name, other = difference.split(" - ")
  return f"{name} - {rows_lib.title(other.removeprefix(name + ' '))}"
