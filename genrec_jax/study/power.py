"""How many votes a comparison of two rows takes."""

import math
from statistics import NormalDist


def votes_needed(
  rate: float,
  *,
  power: float = 0.8,
  level: float = 0.05,
  per_rater: float = 1,
  correlation: float = 0.0,
) -> int:
  """Returns how many votes tell a win rate from one half, two-sided.

  The normal approximation to the test of one proportion: 783 votes for 0.55,
  194 for 0.6 and 85 for 0.65 at the defaults. Votes of one rater are alike, by
  the correlation rho between two of them: m votes a rater count for less by
  the design effect 1 + (m - 1) rho (Kish, Survey Sampling, 1965).

  Args:
    rate: the true share of wins, above one half.
    power: the chance to find it.
    level: of the test.
    per_rater: m, votes of a rater on these two rows.
    correlation: rho, in [0, 1].

  Raises:
    ValueError: the rate is not in (0.5, 1).
  """
  if not 0.5 < rate < 1:
    raise ValueError(f"{rate}: expected a win rate above 0.5 and below 1")
  quantile = NormalDist().inv_cdf
  spread = quantile(1 - level / 2) * 0.5 + quantile(power) * math.sqrt(
    rate * (1 - rate)
  )
  votes = (spread / (rate - 0.5)) ** 2
  return math.ceil(votes * (1 + (per_rater - 1) * correlation))
