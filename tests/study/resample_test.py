import numpy as np
import pytest

from genrec_jax.study import resample
from genrec_jax.study.resample import Votes


def mean(sums):
  return sums[:, 0] / np.maximum(sums[:, 1], 1e-9)


def spread(values, rater, user, raters, users, seed=0):
  resampled = resample.bootstrap(raters, users, resamples=3000, seed=seed)
  table = np.stack([values, np.ones(len(values))], -1)
  return float(resample.variance(resampled, Votes(rater, user, table), mean))


def grid(raters, users):
  """Returns rater and user of votes of everybody on everything."""
  return (x.ravel() for x in np.indices((raters, users)))


def test_independent_votes_have_the_variance_of_a_mean():
  rater, user = grid(40, 50)
  values = (np.random.default_rng(0).random(2000) < 0.5).astype(float)
  # 1 / 4 of each vote; and what its parts vary by chance, about as much again
  # for few clusters.
  assert spread(values, rater, user, 40, 50) == pytest.approx(
    0.25 / 2000, rel=0.35
  )


@pytest.mark.parametrize("by", ["rater", "user"])
def test_votes_that_are_alike_count_as_one(by):
  rater, user = grid(40, 50)
  number = {"rater": rater, "user": user}[by]
  values = (np.arange(number.max() + 1) % 2)[number].astype(float)
  count = number.max() + 1
  # All votes of a cluster are the same: the variance is that of so many votes.
  assert spread(values, rater, user, 40, 50) == pytest.approx(
    0.25 / (count - 1), rel=0.1
  )


def test_both_likenesses_add_up():
  rater, user = grid(40, 50)
  values = (rater % 2 + user % 2) / 2
  assert spread(values, rater, user, 40, 50) == pytest.approx(
    0.25 / 4 / 39 + 0.25 / 4 / 49, rel=0.1
  )


def test_it_is_never_less_than_that_of_either():
  rater, user = grid(6, 6)
  values = ((rater + user) % 2).astype(float)  # alike to no one
  # That of independent votes, although sums of clusters do not vary at all.
  assert spread(values, rater, user, 6, 6) == pytest.approx(0.25 / 36, rel=0.1)


@pytest.mark.parametrize("by", ["rater", "user"])
def test_four_clusters_vary_as_samples_of_four_do(by):
  rater, user = grid(4, 4)
  values = ({"rater": rater, "user": user}[by] % 2).astype(float)
  # Not 1 / 16, and not less what independent votes would vary, 1 / 64.
  assert spread(values, rater, user, 4, 4) == pytest.approx(1 / 12, rel=0.1)


def test_what_raters_and_users_share_counts_once():
  rater, user = grid(3, 3)
  values = (rater % 2 + user % 2) / 2
  # Means of clusters: 0, 1/2, 0, with variance 1/18; of votes 1/9.
  expected = 2 * (1 / 18) / 2 - (1 / 9) / 9
  assert spread(values, rater, user, 3, 3) == pytest.approx(expected, rel=0.1)


def test_a_resample_without_a_value_does_not_count():
  def mean_or_none(sums):
    return np.where(sums[:, 1] > 0, sums[:, 0], np.nan) / np.maximum(
      sums[:, 1], 1
    )

  rater, user = grid(3, 3)
  present = (rater == 0).astype(float)  # a third of resamples lack this rater
  table = np.stack([present * (user % 2), present], -1)
  resampled = resample.bootstrap(3, 3, resamples=500, seed=0)
  found = resample.variance(resampled, Votes(rater, user, table), mean_or_none)
  assert 0 < found < 1


def test_intervals_rest_on_the_fewer_of_raters_and_users():
  assert resample.bootstrap(3, 7, resamples=2, seed=0).clusters == 3
  assert resample.bootstrap(7, 3, resamples=2, seed=0).clusters == 3


def test_the_interval_of_a_share_by_hand():
  # Wilson's for 60 of 100, with the quantile of 1e9 degrees of freedom.
  low, high = resample.share_interval(0.6, 0.24 / 100, 10**9)
  assert low == pytest.approx(0.5020, abs=1e-4)
  assert high == pytest.approx(0.6906, abs=1e-4)


def test_the_interval_of_none_or_all_is_open():
  low, high = resample.share_interval(1.0, 0.0, 30)
  assert low == pytest.approx(1 / (1 + 2.0452**2 / 30), abs=1e-4)
  assert high == 1
  # Nothing varies within: what a variance says of it is rounding.
  assert resample.share_interval(1.0, 1e-20, 30) == (low, high)
  low, high = resample.share_interval(0.0, 0.0, 30)
  assert low == 0
  assert high > 0.1
  assert np.isnan(resample.share_interval(float("nan"), 0.0, 30)).all()


def test_quantiles():
  assert resample.quantile(10**9) == pytest.approx(1.95996, abs=1e-4)
  assert resample.quantile(30) == pytest.approx(2.0452, abs=1e-4)
  # Four intervals at once, at .0125.
  assert resample.quantile(10**9, 4) == pytest.approx(2.4977, abs=1e-4)
