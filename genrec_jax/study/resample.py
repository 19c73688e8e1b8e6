"""Bootstrap of raters and of users together, and intervals from it.

Votes of one rater are alike, and so are votes about one user's images: neither
votes nor raters are independent. Raters are resampled, and users, and votes,
each by itself, and the variance of a statistic is the first two less the third,
which both have in them: Cameron, Gelbach and Miller, "Robust inference with
multiway clustering", JBES 29(2), 2011. (Resampling both at once, the pigeonhole
bootstrap, gives intervals up to sqrt(3) too wide.)
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import special

LEVEL = 0.05


class Votes(NamedTuple):
  """Numbers of V votes that are summed, and whose they are."""

  rater: np.ndarray  # [V] int
  user: np.ndarray  # [V] int
  values: np.ndarray  # [V, D], such as 1 where the vote is a win


class Bootstrap(NamedTuple):
  """How clusters are resampled: the same for all statistics of an analysis."""

  raters: np.ndarray  # [B, raters], how often each is in a resample
  users: np.ndarray  # [B, users]
  seed: int  # of the votes, which are resampled when they are known

  @property
  def clusters(self) -> int:
    """The smaller number of raters and users: what intervals rest on."""
    return min(self.raters.shape[1], self.users.shape[1])


def bootstrap(
  raters: int, users: int, *, resamples: int, seed: int
) -> Bootstrap:
  """Takes B resamples of raters, and of users, with replacement.

  Args:
    raters: how many there are.
    users: how many there are.
    resamples: B.
    seed: of the resampling.
  """
  rng = np.random.default_rng(seed)

  def counts(n):
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples)

  return Bootstrap(counts(raters), counts(users), seed)


def variance(
  resampled: Bootstrap,
  votes: Votes,
  statistic: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
  """Returns the variance of a statistic of sums over votes: [...].

  Args:
    resampled: see `bootstrap`.
    votes: the votes that are summed.
    statistic: sums [B, D] -> [B, ...]; NaN where a resample has none.
  """
  of_raters, of_users, of_votes = (
    np.nanvar(statistic(sums), axis=0)
    for sums in (
      resampled.raters
      @ _by(votes.rater, votes.values, resampled.raters.shape[1]),
      resampled.users @ _by(votes.user, votes.values, resampled.users.shape[1]),
      _vote_sums(resampled, votes.values),
    )
  )
  # A resample of n clusters varies by (n - 1) / n of what samples do.
  of_raters *= _correction(resampled.raters.shape[1])
  of_users *= _correction(resampled.users.shape[1])
  # What is left of the sum may by chance be less than one of its parts.
  both = of_raters + of_users - of_votes
  return np.maximum.reduce([both, of_raters, of_users, of_votes])


def share_interval(
  share: float, variance: float, clusters: int
) -> tuple[float, float]:
  """Returns the 95 % interval of a share, in [0, 1].

  Wilson's (JASA 22, 1927), of as many independent votes as would have this
  variance: it does not close up at 0 and at 1, and never leaves them. NaN of
  NaN.

  Args:
    share: the estimate.
    variance: of it.
    clusters: see `Bootstrap.clusters`.
  """
  if np.isnan(share):
    return float("nan"), float("nan")
  t = quantile(clusters)
  within = share * (1 - share)
  # All alike: as many as there are clusters, which is on the safe side.
  size = within / variance if variance > 0 and within > 0 else clusters
  middle = (share + t**2 / (2 * size)) / (1 + t**2 / size)
  half = t * np.sqrt(within / size + t**2 / (4 * size**2)) / (1 + t**2 / size)
  return float(max(middle - half, 0)), float(min(middle + half, 1))


def quantile(clusters: int, together: int = 1) -> float:
  """Returns how many standard deviations an interval goes to each side.

  Student's, with one degree of freedom less than there are clusters.

  Args:
    clusters: see `Bootstrap.clusters`.
    together: how many intervals are to hold at once, by Bonferroni.
  """
  freedom = max(clusters - 1, 1)
  return float(special.stdtrit(freedom, 1 - LEVEL / (2 * together)))


def _correction(clusters: int) -> float:
  return clusters / max(clusters - 1, 1)


def _by(number: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
  """Returns the sums of values [V, D] of each cluster: [count, D]."""
  found = np.zeros((count, values.shape[1]))
  np.add.at(found, number, values)
  return found


def _vote_sums(resampled: Bootstrap, values: np.ndarray) -> np.ndarray:
  """Returns the sums [B, D] of votes resampled one by one."""
  # Of a few kinds: how often each kind is taken is all that matters.
  kinds, counts = np.unique(values, axis=0, return_counts=True)
  rng = np.random.default_rng((resampled.seed, 1))
  times = rng.multinomial(
    len(values), counts / len(values), size=len(resampled.raters)
  )
  return times @ kinds
