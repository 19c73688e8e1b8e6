"""Means over users with bootstrap intervals, and resampled means themselves.

Letters: U users, M metrics (columns of any kind), R resamples.
"""

from collections.abc import Hashable, Iterator, Mapping
from typing import TypedDict, TypeVar

import numpy as np

RESAMPLES = 10_000  # ends of an interval then vary by 1 % of its width
_PART = 1000  # resamples at a time: 8 MB for a thousand users
_TAIL = 2.5  # per cent on each side of a 95 % interval
_SAME = 1e-12  # of a value: less is rounding

Key = TypeVar("Key", bound=Hashable)


class Interval(TypedDict):
  """A mean over users and its 95 % bootstrap interval."""

  mean: float
  low: float
  high: float


def bootstrap(
  scores: Mapping[Key, np.ndarray], *, seed: int, resamples: int = RESAMPLES
) -> dict[Key, Interval]:
  """Returns means over users, with percentile bootstrap intervals over users.

  All scores share their resamples, and so do calls with one seed.

  Args:
    scores: {metric: [U] float}, NaN where a user has none.
    seed: of the resampling.
    resamples: number of resamples of U users with replacement.

  Returns:
    {metric: interval}, without the metrics that no user has.
  """
  names, table = stack(scores)
  if not names:
    return {}
  means = resampled_means(table, seed=seed, resamples=resamples)
  found = as_intervals(np.nanmean(table, 0), means)
  return dict(zip(names, found, strict=True))


def stack(scores: Mapping[Key, np.ndarray]) -> tuple[list[Key], np.ndarray]:
  """Returns the metrics that some user has, and their table [U, M] float64."""
  values = {
    name: np.asarray(v, np.float64)
    for name, v in scores.items()
    if not np.all(np.isnan(v))
  }
  return list(values), np.stack(list(values.values()), -1) if values else (
    np.zeros((0, 0))
  )


def resampled_means(
  table: np.ndarray, *, seed: int, resamples: int = RESAMPLES
) -> np.ndarray:
  """Returns the means of R resamples of users: [U, M] -> [R, M].

  Users whose value is NaN are left out; a resample of such users only is NaN.
  `scipy.stats.bootstrap` computes the same, metric by metric, a hundred times
  as long: it gathers users where this multiplies by how often each was sampled.
  """
  present = ~np.isnan(table)  # [U, M] bool, True = the user has the metric
  filled = np.where(present, table, 0.0)
  parts = []
  for counts in resample_counts(len(table), seed=seed, resamples=resamples):
    # [r, M] or [r, 1]; most tables lack nothing and need one product only.
    weights = (
      np.full((len(counts), 1), len(table))
      if present.all()
      else counts @ present
    )
    sums = np.where(weights > 0, counts @ filled, np.nan)  # [r, M]
    parts.append(sums / np.maximum(weights, 1))
  return np.concatenate(parts)


def resample_counts(
  size: int, *, seed: int, resamples: int = RESAMPLES
) -> Iterator[np.ndarray]:
  """Yields how often each of `size` is in a resample: float64 [r, size].

  Each resample takes `size` of them with replacement; parts of r resamples.
  """
  rng = np.random.default_rng(seed)
  for start in range(0, resamples, _PART):
    rows = min(_PART, resamples - start)
    chosen = rng.integers(size, size=(rows, size))  # [r, size]
    chosen += np.arange(rows)[:, None] * size  # each resample its own bins
    counts = np.bincount(chosen.ravel(), minlength=rows * size)
    yield counts.reshape(rows, size).astype(np.float64)


def as_intervals(means: np.ndarray, resampled: np.ndarray) -> list[Interval]:
  """Returns the intervals of means [M] by their resamples [R, M]."""
  # NaN in few tables, and slow.
  percentile = np.nanpercentile if np.isnan(resampled).any() else np.percentile
  ends = percentile(resampled, [_TAIL, 100 - _TAIL], axis=0)  # [2, M]
  # Users of one value: summed in another order it differs in the last digit,
  # and the mean would be outside of its interval.
  low, high = np.where(np.isclose(ends, means, rtol=_SAME, atol=0), means, ends)
  return [
    {"mean": float(m), "low": float(a), "high": float(b)}
    for m, a, b in zip(means, low, high, strict=True)
  ]
