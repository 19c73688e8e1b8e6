import numpy as np
import pytest
from scipy import stats

from genrec_jax.evals import intervals


def test_bootstrap_is_seeded_and_near_the_normal_interval():
  values = np.random.default_rng(1).normal(2.0, 3.0, size=400)
  found = intervals.bootstrap({"a": values}, seed=0)["a"]
  assert found == intervals.bootstrap({"a": values}, seed=0)["a"]
  assert found != intervals.bootstrap({"a": values}, seed=1)["a"]
  error = values.std() / 20
  assert found["mean"] == pytest.approx(values.mean())
  assert found["low"] == pytest.approx(values.mean() - 1.96 * error, abs=0.05)
  assert found["high"] == pytest.approx(values.mean() + 1.96 * error, abs=0.05)


def test_bootstrap_covers_the_mean_it_should():
  """Of a thousand skewed data sets 95 % of the intervals hold the mean."""
  table = np.random.default_rng(2).exponential(size=(100, 1000))
  means = intervals.resampled_means(table, seed=0, resamples=2000)
  found = intervals.as_intervals(table.mean(0), means)
  hits = [cell["low"] <= 1 <= cell["high"] for cell in found]
  assert np.mean(hits) == pytest.approx(0.95, abs=0.025)


def test_bootstrap_is_scipys():
  values = np.random.default_rng(3).exponential(size=200)
  ours = intervals.bootstrap({"a": values}, seed=0)["a"]
  theirs = stats.bootstrap(
    (values,), np.mean, method="percentile", n_resamples=10_000, rng=0
  ).confidence_interval
  # Both ends are random: by about 1 % of the width with so many resamples.
  width = ours["high"] - ours["low"]
  assert ours["low"] == pytest.approx(theirs.low, abs=0.04 * width)
  assert ours["high"] == pytest.approx(theirs.high, abs=0.04 * width)


def test_users_of_one_value_have_their_mean_in_the_interval():
  # Summed in another order, as processors do, it may end in another digit.
  mean = np.asarray([285.9, -285.9, 0.0])
  for other in (np.nextafter(mean, np.inf), np.nextafter(mean, -np.inf)):
    found = intervals.as_intervals(mean, np.tile(other, (8, 1)))
    for one in found[:2]:
      assert one["low"] == one["mean"] == one["high"]
  # What is further away than rounding stays: of sets it may be.
  (apart,) = intervals.as_intervals(mean[:1], np.full((8, 1), 285.91))
  assert apart == {"mean": 285.9, "low": 285.91, "high": 285.91}


def test_a_resample_takes_as_many_as_there_are():
  parts = list(intervals.resample_counts(7, seed=0, resamples=2500))
  assert [len(part) for part in parts] == [1000, 1000, 500]
  counts = np.concatenate(parts)
  assert (counts.sum(1) == 7).all()
  # Each is sampled once on average, with a binomial's variance.
  assert counts.mean(0) == pytest.approx(np.ones(7), abs=0.1)
  assert counts.var() == pytest.approx(6 / 7, abs=0.05)


def test_bootstrap_leaves_out_users_without_the_metric():
  values = np.asarray([1.0, np.nan, 3.0, np.nan])
  found = intervals.bootstrap(
    {"a": values, "none": np.full(4, np.nan), "b": np.ones(4)}, seed=0
  )
  assert set(found) == {"a", "b"}
  assert found["a"]["mean"] == 2.0
  assert 1.0 <= found["a"]["low"] <= found["a"]["high"] <= 3.0
  assert found["b"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
  assert intervals.bootstrap({"none": np.full(4, np.nan)}, seed=0) == {}
