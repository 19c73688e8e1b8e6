"""Paired differences of rows: intervals, sign-flip tests, Holm's correction.

All rows of a table see the same users, so a difference is a mean of the users'
own differences: users differ more from each other than models do on one user,
and that part cancels. Intervals are 95 % percentile bootstraps over users.

Letters: U users, M metrics, R resamples, S seeds of one configuration.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from genrec_jax.evals import intervals
from genrec_jax.evals.intervals import RESAMPLES, Interval
from genrec_jax.evals.metrics import tested_as

Row = Mapping[str, np.ndarray]  # {metric: [U] float, NaN: the user has none}
_PART = 1000  # sign flips at a time: 8 MB for a thousand users


class Difference(Interval):
  """A mean difference, its 95 % interval and its p value.

  `p_holm` is p after Holm's correction for the tests of the comparison: below
  .05 it may be called a difference without asking how many metrics were looked
  at.
  """

  p: float
  p_holm: float


def paired(
  rows: Mapping[str, Row],
  contrasts: Sequence[tuple[str, str]],
  *,
  seed: int,
  resamples: int = RESAMPLES,
) -> dict[str, dict[str, Difference]]:
  """Returns the mean differences of pairs of rows, user by user.

  Users who lack either score of a metric are left out of it.

  Args:
    rows: {row: {metric: [U] float}}, the same users in the same order.
    contrasts: pairs (a, b) of rows.
    seed: of resamples and sign flips, which all of them share.
    resamples: of users, and of sign flips.

  Returns:
    {'a - b': {metric: difference}} of the metrics that both rows have.
  """
  names, table = intervals.stack(
    {
      (f"{a} - {b}", metric): np.asarray(rows[a][metric]) - rows[b][metric]
      for a, b in contrasts
      for metric in rows[a]
      if metric in rows[b]
    }
  )  # [U, M]
  found: dict[str, dict[str, Difference]] = {
    f"{a} - {b}": {} for a, b in contrasts
  }
  if not names:
    return found
  means = intervals.resampled_means(table, seed=seed, resamples=resamples)
  cells = intervals.as_intervals(np.nanmean(table, 0), means)
  p = sign_flip_p(table, seed=seed, resamples=resamples)  # [M]
  for (contrast, metric), cell, value in zip(names, cells, p, strict=True):
    found[contrast][metric] = {**cell, "p": float(value), "p_holm": 1.0}
  for comparison in found.values():
    correct(comparison)
  return found


def correct(comparison: Mapping[str, Difference]) -> None:
  """Sets each `p_holm` of a comparison from its metrics' p.

  One test counts once under however many names: lift is HR@10 but for a factor,
  and of a horizon of one item the mean of the future is the next item.
  """

  def test(metric: str) -> tuple[float, ...]:
    """Returns the mean, interval and p of what is tested."""
    cell = comparison.get(tested_as(metric), comparison[metric])
    return cell["mean"], cell["low"], cell["high"], cell["p"]

  # As keys: metrics of the same users' differences have the same resamples.
  tests = list(dict.fromkeys(map(test, comparison)))
  corrected = holm(np.asarray([p for *_, p in tests]))
  by_test = dict(zip(tests, corrected, strict=True))
  for metric, cell in comparison.items():
    cell["p_holm"] = float(by_test[test(metric)])


def sign_flip_p(
  table: np.ndarray, *, seed: int, resamples: int = RESAMPLES
) -> np.ndarray:
  """Returns two-sided p of mean differences being 0: [U, M] -> [M].

  Were there none, each user's difference would as likely have the other sign:
  p is the share of random signs whose mean is as far from 0, the observed one
  counted among them so that p is never 0 (Phipson and Smyth 2010). It is
  `scipy.stats.permutation_test` with permutation_type 'samples', for all
  metrics at once.

  Args:
    table: differences, NaN where a user has none.
    seed: of the signs.
    resamples: R.
  """
  filled = np.nan_to_num(table)
  # Signs whose mean is the observed one may round to less.
  rounding = 1e-12 * np.abs(filled).sum(0)
  observed = np.abs(filled.sum(0)) - rounding  # [M]
  rng = np.random.default_rng(seed)
  farther = np.zeros(table.shape[1])
  for start in range(0, resamples, _PART):
    size = (min(_PART, resamples - start), len(table))
    signs = 2.0 * rng.integers(2, size=size, dtype=np.int8) - 1  # [r, U]
    farther += (np.abs(signs @ filled) >= observed).sum(0)
  return (farther + 1) / (resamples + 1)


def holm(p: np.ndarray) -> np.ndarray:
  """Returns p values [M] corrected for their number (Holm 1979): [M].

  Of M values the smallest counts M times, the next M - 1 times, and so on; none
  is less than one before it.
  """
  order = np.argsort(p)
  steps = p[order] * np.arange(len(p), 0, -1)
  corrected = np.empty(len(p))
  corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
  return corrected


def between_seeds(
  a: Sequence[Row], b: Sequence[Row], *, seed: int, resamples: int = RESAMPLES
) -> dict[str, Difference]:
  """Returns mean differences of two configurations, several seeds of each.

  A hierarchical bootstrap: each resample takes seeds of a, seeds of b, and then
  users, once for all its seeds, as these saw the same users. Seeds are moved
  from their mean by sqrt(S / (S - 1)), without which the variance of so few
  would be too small (Davison and Hinkley 1997, section 3.8); of a single seed
  nothing is known about others, and only users are resampled. p is twice the
  share of resamples on the rarer side of 0.

  Args:
    a: {metric: [U] float} of each of S_a seeds, NaN where a user has none.
    b: of each of S_b seeds, the same users in the same order.
    seed: of the resampling.
    resamples: R.

  Returns:
    {metric: difference} of the metrics that all of them have; users who lack
    one of the scores are left out of it.
  """
  names, tables = stack_seeds([*a, *b])  # [S_a + S_b, U, M]
  if not names:
    return {}
  # Their seeds are resampled apart, their users together.
  ours, theirs = (
    seed_means(half, seed=seed, seeds_seed=[seed, i], resamples=resamples)
    for i, half in enumerate((tables[: len(a)], tables[len(a) :]))
  )  # [1 + R, M] each
  means = ours - theirs
  below, above = (means[1:] <= 0).sum(0), (means[1:] >= 0).sum(0)
  p = np.minimum((2 * np.minimum(below, above) + 1) / (resamples + 1), 1)
  cells = intervals.as_intervals(means[0], means[1:])
  found: dict[str, Difference] = {
    name: {**cell, "p": float(value), "p_holm": 1.0}
    for name, cell, value in zip(names, cells, p, strict=True)
  }
  correct(found)
  return found


def over_seeds(
  rows: Sequence[Row], *, seed: int, resamples: int = RESAMPLES
) -> dict[str, Interval]:
  """Returns the means of a configuration; arguments as of `between_seeds`."""
  names, tables = stack_seeds(rows)
  if not names:
    return {}
  means = seed_means(tables, seed=seed, seeds_seed=[seed], resamples=resamples)
  cells = intervals.as_intervals(means[0], means[1:])
  return dict(zip(names, cells, strict=True))


def stack_seeds(rows: Sequence[Row]) -> tuple[list[str], np.ndarray]:
  """Returns the metrics that all rows have, and their table [S, U, M]."""
  shared = [m for m in rows[0] if all(m in row for row in rows)]
  if not shared:
    return [], np.zeros((len(rows), 0, 0))
  table = np.stack([[row[m] for m in shared] for row in rows]).swapaxes(1, 2)
  # One user's gap in one seed is a gap in all, or seeds would differ by users.
  table = np.where(np.isnan(table).any(0), np.nan, table)
  kept = ~np.isnan(table[0]).all(0)  # [M]
  names = [name for name, keep in zip(shared, kept, strict=True) if keep]
  return names, table[..., kept]


def seed_means(
  tables: np.ndarray, *, seed: int, seeds_seed: Sequence[int], resamples: int
) -> np.ndarray:
  """Returns means over seeds and users, and resamples: [S, U, M] -> [1 + R, M].

  What was observed comes first; see `between_seeds`.

  Args:
    tables: [S, U, M], NaN where a user has none.
    seed: of the users that are resampled.
    seeds_seed: of the seeds that are.
    resamples: R.
  """
  size = len(tables)
  own = np.nanmean(tables, 1, keepdims=True)  # [S, 1, M]
  if size > 1:
    tables = tables + (np.sqrt(size / (size - 1)) - 1) * (own - own.mean(0))
  means = np.stack(
    [
      intervals.resampled_means(one, seed=seed, resamples=resamples)
      for one in tables
    ],
    1,
  )  # [R, S, M], the same users for every seed
  rng = np.random.default_rng(seeds_seed)
  chosen = rng.integers(size, size=(resamples, size))  # [R, S]
  resampled = np.take_along_axis(means, chosen[..., None], 1).mean(1)  # [R, M]
  return np.concatenate([own.mean(0), resampled])
