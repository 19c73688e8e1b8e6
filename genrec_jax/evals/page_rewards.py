"""Rewards next to their judges, for report.html.

What is rewarded, as training saw it, and the same by encoders that reward
nothing, on held-out users: a reward that rises while its judges fall is won
without what it stands for.
"""

from collections.abc import Mapping
import re
from typing import NamedTuple

from genrec_jax.evals import curves as curves_lib
from genrec_jax.evals.curves import Chart, Curve
from genrec_jax.evals.metrics import describe
from genrec_jax.evals.summary import Summary

_REWARD = re.compile(r"reward/(\w+)_mean")
# What judges say of the same; of other rewards, what none should lower.
_JUDGED = {
  "history": r"history_\w+_mean",
  "text": r"text_\w+",
  "copy": r"copy_rate_\w+",
  "diversity": r"diversity_\w+",
}
_OTHERS = r"future_\w+_mean"


class Watched(NamedTuple):
  """A reward's curve, and those of its judges."""

  name: str
  reward: Chart
  judges: list[Chart]


def section(curves: Mapping[str, Curve], summary: Summary) -> list[Watched]:
  """Returns each reward that some judge watches, as names are ordered.

  Args:
    curves: {metric: [(step, value), ...]} of a run.
    summary: of its comparison.
  """
  found = []
  for name in sorted(curves):
    match = _REWARD.fullmatch(name)
    if not match or name.endswith("_weighted_mean"):
      continue
    judges = [
      curves_lib.chart(judge, curves[judge], summary)
      for judge in _judges(match[1], curves)
    ]
    if judges:
      reward = curves_lib.chart(name, curves[name], summary)
      found.append(Watched(match[1], reward, judges))
  return found


def _judges(reward: str, curves: Mapping[str, Curve]) -> list[str]:
  """Returns the held-out metrics by which judges watch a reward."""
  # 'future_dinov2' is the reward 'future' by another encoder.
  kind = next((k for k in _JUDGED if re.match(rf"{k}(_|$)", reward)), "")
  watched = [
    name
    for name in sorted(curves)
    if name.startswith("eval/")
    and (metric := describe(name.removeprefix("eval/"))) is not None
    and metric.judge
  ]
  for pattern in (_JUDGED.get(kind, _OTHERS), _OTHERS):
    if same := [n for n in watched if re.fullmatch(f"eval/{pattern}", n)]:
      return same
  return []
