"""Means over users, with bootstrap intervals: of scores, and of differences."""

from collections.abc import Mapping
from typing import TypedDict

import numpy as np


class Interval(TypedDict):
  """A mean over users and its 95 % bootstrap interval."""

  mean: float
  low: float
  high: float


def bootstrap(
  scores: Mapping[str, np.ndarray],
  *,
  seed: int,
  resamples: int = 2000,
  confidence: float = 0.95,
) -> dict[str, Interval]:
  """Returns means over users, with percentile bootstrap intervals over users.

  The same seed resamples the same users, so rows of a table share resamples.

  Args:
    scores: {metric: [U] float}, NaN where a user has none.
    seed: of the resampling.
    resamples: number of resamples of U users with replacement.
    confidence: share of the resampled means between low and high.

  Returns:
    {metric: interval}, without the metrics that no user has.
  """
  values = {
    name: np.asarray(v, np.float64)
    for name, v in scores.items()
    if not np.all(np.isnan(v))
  }
  if not values:
    return {}
  table = np.stack(list(values.values()), -1)  # [U, M], M metrics
  present = ~np.isnan(table)  # [U, M] bool, True = the user has the metric
  table = np.where(present, table, 0.0)
  users = len(table)
  rng = np.random.default_rng(seed)
  # How often each user is in a resample says as much as a list of users, and
  # makes all resampled sums one matrix product.
  counts = rng.multinomial(users, np.full(users, 1 / users), size=resamples)
  weights = counts @ present  # [R, M], R resamples
  # A resample without a single user who has the metric says nothing about it.
  sums = np.where(weights > 0, counts @ table, np.nan)
  means = sums / np.maximum(weights, 1)  # [R, M]
  tail = 50 * (1 - confidence)
  low, high = np.nanpercentile(means, [tail, 100 - tail], axis=0)  # [M] each
  mean = table.sum(0) / present.sum(0)  # [M]
  return {
    name: {"mean": float(m), "low": float(a), "high": float(b)}
    for name, m, a, b in zip(values, mean, low, high, strict=True)
  }


def paired(
  scores: Mapping[str, np.ndarray],
  others: Mapping[str, np.ndarray],
  *,
  seed: int,
) -> dict[str, Interval]:
  """Returns mean differences, `scores` - `others`, of the same users.

  Each interval is a bootstrap of the users' own differences: users differ more
  from each other than models do on one user, and that part cancels. Users who
  lack either score are left out.

  Args:
    scores: {metric: [U] float}, NaN where a user has none.
    others: the same of another row, user by user.
    seed: of the resampling.

  Returns:
    {metric: interval} of the metrics that both have.
  """
  both = [name for name in scores if name in others]
  return bootstrap(
    {name: np.asarray(scores[name]) - others[name] for name in both}, seed=seed
  )
