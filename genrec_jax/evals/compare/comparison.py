"""compare.json: groups of runs, their means, and differences to the first.

    {"users": n, "population": "held-out users", "varied": ["rl.advantage"],
     "notes": [line, ...],
     "groups": [{"name", "values": {key: value}, "runs": [path], "seeds": [s],
                 "row": "rl", "metrics": {metric: {"mean", "low", "high"}}}],
     "references": {row: {metric: {"mean", "low", "high"}}},
     "differences": {"advantage=rloo - advantage=grpo":
                       {metric: {"mean", "low", "high", "p", "p_holm"}}},
     "at_equal_diversity": {"advantage=rloo - advantage=grpo":
                              {metric: {"mean", "low", "high", "least",
                                        "most"}}},
     "failed": [{"name", "values", "seed", "reason"}]}

The first group is what the others are compared with. At equal diversity are
runs that were sampled at several temperatures: the mean over the diversities,
from the least to the most, that both reach.
"""

from collections.abc import Mapping, Sequence
import re
from typing import Any

import numpy as np

from genrec_jax import rows as rows_lib
from genrec_jax.evals import differences, frontier
from genrec_jax.evals.compare import equal_diversity
from genrec_jax.evals.compare import groups as groups_lib
from genrec_jax.evals.compare.groups import Group
from genrec_jax.evals.compare.runs import Run
from genrec_jax.evals.differences import Difference, Row
from genrec_jax.evals.frontier import MeanGap
from genrec_jax.evals.summary import rows

Comparison = Mapping[str, Any]  # as it is written, so a plain mapping
# Where these differ some metrics mean something else in each run: patterns.
_CHANGES_MEANING = {
  "data.history_length": "history_|copy_rate",
  "rewards.copy.threshold": "copy_rate$|catalogue_copy_clip",
  "eval.copy_threshold": "copy_rate$|catalogue_copy_clip",
}


def compare(
  groups: Sequence[Group],
  *,
  failed: Sequence[Mapping[str, Any]] = (),
  seed: int = 0,
) -> dict[str, Any]:
  """Returns what compare.json holds.

  Args:
    groups: of runs that can be compared; the first is compared with.
    failed: runs that were to be compared and have no result.
    seed: of the bootstrap.
  """
  runs = [run for group in groups for run in group.runs]
  first = runs[0]
  varied = groups_lib.varied(runs)
  dropped, notes = _dropped(varied)
  # First of all: where numbers mean nothing, neither do differences.
  said = (line for run in runs for line in run.summary.get("warnings", ()))
  notes = [*dict.fromkeys(line.removesuffix(".") for line in said), *notes]
  rows = [
    [_without(run.own, dropped) for run in group.runs] for group in groups
  ]
  alone = [group.name for group in groups if len(group.runs) == 1]
  # Where all have one seed, the page says so of all.
  if 0 < len(alone) < len(groups):
    notes.append(
      f"one seed only of {', '.join(alone)}: its intervals are over users alone"
    )
  return {
    "users": len(first.users),
    "population": first.summary.get("population", "users"),
    "varied": varied,
    "notes": notes,
    "groups": [
      {
        "name": group.name,
        "values": dict(group.values),
        "runs": [run.path for run in group.runs],
        "seeds": group.seeds,
        "row": group.runs[0].row,
        "metrics": differences.over_seeds(own, seed=seed),
      }
      for group, own in zip(groups, rows, strict=True)
    ],
    "references": _references(runs, dropped),
    "differences": {
      f"{group.name} - {groups[0].name}": _difference(own, rows[0], seed)
      for group, own in zip(groups[1:], rows[1:], strict=True)
    },
    "at_equal_diversity": _at_equal_diversity(groups, dropped, seed),
    "failed": [dict(one) for one in failed],
  }


def _difference(
  ours: Sequence[Row], theirs: Sequence[Row], seed: int
) -> dict[str, Difference]:
  """Returns ours - theirs, over seeds where there are several."""
  if len(ours) > 1 or len(theirs) > 1:
    return differences.between_seeds(ours, theirs, seed=seed)
  # Of one seed each: by users alone, as in a run's own table.
  pair = {"a": ours[0], "b": theirs[0]}
  return differences.paired(pair, [("a", "b")], seed=seed)["a - b"]


def _at_equal_diversity(
  groups: Sequence[Group], dropped: str, seed: int
) -> dict[str, dict[str, MeanGap]]:
  """Returns each group less the first, by each alignment that has a curve."""
  known = _without(groups[0].runs[0].own, dropped)
  axes = frontier.axes({"models": {"": known}})
  found = {}
  for group in groups[1:]:
    gaps = {
      one[0]: equal_diversity.between(group, groups[0], axes=one, seed=seed)
      for one in axes
    }
    if cells := {name: gap for name, gap in gaps.items() if gap}:
      found[f"{group.name} - {groups[0].name}"] = cells
  return found


def _references(runs: Sequence[Run], dropped: str) -> dict[str, Any]:
  """Returns other rows of the first run's table: what it began from, and ends.

  Rows that are no models are the same in all runs, and so is what the first
  began from, unless that was varied.
  """
  compared = {run.row for run in runs}
  # What no run was scored by has no column.
  known = {metric for run in runs for metric in run.own}
  return {
    name: {
      m: cell
      for m, cell in cells.items()
      if m in known and not _matches(dropped, m)
    }
    for group, name, cells in rows(runs[0].summary)
    if group != "shuffled" and name not in compared
    if name not in rows_lib.ROWS or name in ("real_next_item", "random_item")
  }


def _dropped(varied: Sequence[str]) -> tuple[str, list[str]]:
  """Returns a pattern of metrics to leave out, and why in words."""
  found = {k: p for k, p in _CHANGES_MEANING.items() if k in varied}
  notes = [
    f"{key} differs: {pattern.replace('|', ', ')} would mean something else in"
    " each run and are left out"
    for key, pattern in found.items()
  ]
  return "|".join(found.values()), notes


def _without(row: Row, dropped: str) -> dict[str, np.ndarray]:
  return {m: values for m, values in row.items() if not _matches(dropped, m)}


def _matches(pattern: str, metric: str) -> bool:
  return bool(pattern) and re.match(pattern, metric) is not None
