"""The frontier: alignment against diversity, at several temperatures.

A lower temperature alone buys alignment with diversity, so a model is better
where its curve lies above another's: read at equal diversity, by linear
interpolation between the temperatures that were sampled at.

Letters: R resamples, T temperatures, K places on a curve.
"""

from collections.abc import Mapping, Sequence
import itertools
import re
from typing import TypedDict

import numpy as np

from genrec_jax.evals import intervals
from genrec_jax.evals.intervals import RESAMPLES, Interval
from genrec_jax.evals.summary import Summary, columns, headline

# {model: {temperature: {metric: [U] float}}}, the same users in all of them
Scores = Mapping[str, Mapping[float, Mapping[str, np.ndarray]]]


class Point(TypedDict):
  """A model at a temperature."""

  temperature: float
  diversity: Interval
  alignment: Interval


class Gap(Interval):
  """The difference of two curves' alignment where both have this diversity."""

  diversity: float


class MeanGap(Interval):
  """The mean of that difference over the diversities that both curves reach."""

  least: float  # of these diversities
  most: float


class Frontier(TypedDict):
  """Curves by model, and differences of each to the one before it."""

  alignment: str  # metrics
  diversity: str
  curves: dict[str, list[Point]]  # by diversity, the least first
  differences: dict[str, list[Gap]]  # 'rl - sft'; empty: no equal diversity


def row_name(model: str, temperature: float | str) -> str:
  """Returns what a model's scores at another temperature are called.

  Args:
    model: a row of the table.
    temperature: another; '' for what all such names begin with.
  """
  return f"{model} at temperature {temperature}"


def frontier(
  scores: Scores,
  alignment: str,
  diversity: str,
  *,
  seed: int,
  resamples: int = RESAMPLES,
) -> Frontier:
  """Returns curves and their differences, with bootstrap intervals over users.

  A resample takes the same users for all curves; their places, diversity and
  alignment, are both resampled, so that an interval has the noise of both.

  Args:
    scores: of each model at each temperature.
    alignment: the metric whose more is better.
    diversity: the metric that is held equal.
    seed: of the resampling.
    resamples: R.
  """
  keys = [
    (model, temperature)
    for model, curve in scores.items()
    for temperature in curve
  ]
  columns = [
    scores[m][t][metric] for m, t in keys for metric in (diversity, alignment)
  ]
  table = np.stack(columns, -1).astype(np.float64)  # [U, 2 of each key]
  # A user without one of the scores would be in some places only.
  table = table[~np.isnan(table).any(-1)]
  resampled = intervals.resampled_means(table, seed=seed, resamples=resamples)
  cells = intervals.as_intervals(table.mean(0), resampled)
  means = np.concatenate([table.mean(0)[None], resampled])  # [1 + R, 2 of each]
  curves: dict[str, list[Point]] = {}
  places: dict[str, np.ndarray] = {}  # [1 + R, T, 2], what was observed first
  for model in scores:
    at = [i for i, key in enumerate(keys) if key[0] == model]
    at.sort(key=lambda i: cells[2 * i]["mean"])
    places[model] = np.stack([means[:, [2 * i, 2 * i + 1]] for i in at], 1)
    curves[model] = [
      {
        "temperature": keys[i][1],
        "diversity": cells[2 * i],
        "alignment": cells[2 * i + 1],
      }
      for i in at
    ]
  return {
    "alignment": alignment,
    "diversity": diversity,
    "curves": curves,
    "differences": {
      f"{b} - {a}": _gaps(places[b], places[a])
      for a, b in itertools.pairwise(scores)
    },
  }


def axes(summary: Summary) -> list[tuple[str, str]]:
  """Returns (alignment, diversity) that curves are drawn of, if any.

  The headline first, then what comes next by each judge. Diversity is a
  judge's, if there is one.
  """
  found = columns(summary)
  diversity = [m for m in found if m.startswith("diversity_")] or ["diversity"]
  judged = [m for m in found if re.fullmatch(r"future_(?!clip_)\w+_mean", m)]
  return [
    (alignment, diversity[0])
    for alignment in dict.fromkeys([headline(summary), *judged])
    if {alignment, diversity[0]} <= set(found)
  ]


def of_summary(scores: Scores, summary: Summary, seed: int) -> Frontier | None:
  """Returns the frontier of the headline; None without one."""
  found = axes(summary)
  if not scores or not found:
    return None
  return frontier(scores, *found[0], seed=seed)


def _gaps(ours: np.ndarray, theirs: np.ndarray) -> list[Gap]:
  """Returns our alignment less theirs at the corners that both curves reach.

  Both are [1 + R, T, 2], what was observed and its resamples. Between corners,
  measured points of either curve, the difference is a line: it is largest and
  smallest at one of them.
  """
  corners = _shared(ours[0, :, 0], theirs[0, :, 0])  # [K]
  if not len(corners):
    return []
  gaps = interpolate(ours, corners) - interpolate(theirs, corners)  # [1 + R, K]
  cells = intervals.as_intervals(gaps[0], gaps[1:])
  return [
    {"diversity": float(d), **cell}
    for d, cell in zip(corners, cells, strict=True)
  ]


def mean_gap(ours: np.ndarray, theirs: np.ndarray) -> MeanGap | None:
  """Returns our alignment less theirs, in the mean over equal diversities.

  Args:
    ours: [1 + R, T, 2], diversity and alignment, as observed and resampled.
    theirs: the same, of as many resamples and any T.

  Returns:
    The difference; None where no diversity is on both curves.
  """
  corners = _shared(ours[0, :, 0], theirs[0, :, 0])  # [K]
  if not len(corners):
    return None
  gaps = interpolate(ours, corners) - interpolate(theirs, corners)  # [1 + R, K]
  # Between corners it is a line, so that trapezoids are exact.
  least, most = float(corners[0]), float(corners[-1])
  means = gaps[:, 0]
  if most > least:
    means = np.trapezoid(gaps, corners, axis=1) / (most - least)
  (cell,) = intervals.as_intervals(means[:1], means[1:, None])
  return {**cell, "least": least, "most": most}


def _shared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Returns the diversities [K] of points of two curves that both reach."""
  low, high = max(x.min(), y.min()), min(x.max(), y.max())
  return np.unique([d for d in (*x, *y) if low <= d <= high])


def interpolate(
  curves: np.ndarray, at: Sequence[float] | np.ndarray
) -> np.ndarray:
  """Returns y of piecewise linear curves at x: [R, T, 2], [K] -> [R, K].

  Points (x, y) of a curve come in any order. Beyond its ends a curve goes on as
  its outermost piece does: a resample of a curve may end a little before the
  places that it is read at. One point is a level line.
  """
  order = np.argsort(curves[..., 0], axis=1)[..., None]  # [R, T, 1]
  curves = np.take_along_axis(curves, order, 1)
  if curves.shape[1] == 1:
    return np.repeat(curves[:, :, 1], len(at), axis=1)
  x, y = curves[..., 0], curves[..., 1]  # [R, T] each
  # The piece that each place lies in, by its left end: [R, K].
  left = (x[:, :, None] <= np.asarray(at)).sum(1) - 1
  left = np.clip(left, 0, x.shape[1] - 2)
  x0, x1, y0, y1 = (
    np.take_along_axis(v, left + i, 1) for v in (x, y) for i in (0, 1)
  )
  # Points of one diversity have no slope between them.
  width = np.where(x1 > x0, x1 - x0, 1)
  return y0 + (y1 - y0) * (np.asarray(at) - x0) / width
