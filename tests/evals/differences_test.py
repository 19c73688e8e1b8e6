"""Differences, by hand, by scipy, and by simulation with a known truth."""

import time

import numpy as np
import pytest
from scipy import stats

from genrec_jax.evals import differences


def test_differences_are_of_the_same_users():
  rng = np.random.default_rng(0)
  a = rng.normal(size=300)  # users differ far more than rows do
  b = a + 0.1 + rng.normal(0, 0.05, size=300)
  rows = {"b": {"x": b, "only": b}, "a": {"x": a}}
  found = differences.paired(rows, [("b", "a"), ("a", "b")], seed=0)
  assert list(found) == ["b - a", "a - b"]
  assert found["b - a"].keys() == {"x"}
  cell, mirror = found["b - a"]["x"], found["a - b"]["x"]
  assert cell["mean"] == pytest.approx((b - a).mean())
  error = 1.96 * (b - a).std() / 300**0.5
  assert cell["low"] == pytest.approx(cell["mean"] - error, abs=error / 5)
  assert cell["high"] == pytest.approx(cell["mean"] + error, abs=error / 5)
  assert mirror["low"] == pytest.approx(-cell["high"])
  assert cell["p"] == cell["p_holm"] == mirror["p"] == 1 / 10_001
  assert found == differences.paired(rows, [("b", "a"), ("a", "b")], seed=0)
  # Unpaired, they could not be told apart.
  assert stats.ttest_ind(a, b).pvalue > 0.05


def test_users_who_lack_a_score_are_left_out():
  rows = {
    "a": {"x": np.asarray([0.0, np.nan, 2.0]), "none": np.full(3, np.nan)},
    "b": {"x": np.asarray([np.nan, 5.0, 1.0]), "none": np.zeros(3)},
  }
  found = differences.paired(rows, [("a", "b")], seed=0)["a - b"]
  assert found.keys() == {"x"}
  cell = found["x"]
  assert (cell["mean"], cell["low"], cell["high"]) == (1, 1, 1)
  assert cell["p"] == 1  # one user's difference has either sign


def test_equal_rows_do_not_differ():
  rows = {"a": {"x": np.full(4, 0.1)}, "b": {"x": np.full(4, 0.1)}}
  cell = differences.paired(rows, [("a", "b")], seed=0)["a - b"]["x"]
  assert cell == {"mean": 0, "low": 0, "high": 0, "p": 1, "p_holm": 1}


def test_sign_flips_are_scipys():
  values = np.random.default_rng(1).normal(0.15, 1, size=(10, 3))
  ours = differences.sign_flip_p(values, seed=0, resamples=50_000)
  theirs = stats.permutation_test(  # all 1,024 signs
    (values,),
    lambda x, axis: x.mean(axis=axis),
    permutation_type="samples",
    n_resamples=np.inf,
    axis=0,
  ).pvalue
  assert ours == pytest.approx(theirs, abs=0.01)


def test_sign_flips_by_hand():
  """Of the eight signs of 1, 2, 3 two give +-6, four more +-4 or +-2 or 0."""
  table = np.asarray([[1.0, 1.0], [2.0, 2.0], [3.0, -3.0]])
  found = differences.sign_flip_p(table, seed=0, resamples=50_000)
  # 1 + 2 + 3 = 6: only both ends, 2 of 8. 1 + 2 - 3 = 0: all 8.
  assert found == pytest.approx([0.25, 1], abs=0.01)


def test_rounding_makes_no_mean_farther():
  """Of tenths, which round, as of whole numbers, which do not."""
  table = np.random.default_rng(5).integers(-4, 5, size=(6, 300))
  found = differences.sign_flip_p(table / 10, seed=0, resamples=500)
  whole = differences.sign_flip_p(table.astype(float), seed=0, resamples=500)
  np.testing.assert_array_equal(found, whole)


def test_holm_by_hand():
  """.005 x 4, .01 x 3, .03 x 2, and .04, which may not be less than .06."""
  found = differences.holm(np.asarray([0.01, 0.04, 0.03, 0.005]))
  assert found == pytest.approx([0.03, 0.06, 0.06, 0.02])
  assert differences.holm(np.asarray([0.6, 0.7])) == pytest.approx([1, 1])
  assert differences.holm(np.zeros(0)).shape == (0,)


def test_a_test_under_two_names_counts_once():
  """Of HR@10, lift, and two that are the same: three tests, not five."""

  def cell(p, mean):
    return {"mean": mean, "low": 0, "high": 1, "p": p, "p_holm": 1}

  found = {
    "lift_eye": cell(0.011, 2.875),
    "hit_rate_eye": cell(0.01, 0.01),
    "hit_rate_ear": cell(0.02, 0.01),
    "future_clip_mean": cell(0.03, 0.2),
    "future_clip_next": cell(0.03, 0.2),
  }
  differences.correct(found)
  assert {name: one["p_holm"] for name, one in found.items()} == (
    pytest.approx(
      {
        "lift_eye": 0.03,  # of HR@10: .01 x 3
        "hit_rate_eye": 0.03,
        "hit_rate_ear": 0.04,
        "future_clip_mean": 0.04,  # .03 x 1, no less than .04
        "future_clip_next": 0.04,
      }
    )
  )
  # Another's HR@10 is another test, and so is lift without its own.
  found = {"lift_eye": cell(0.01, 2), "hit_rate_ear": cell(0.02, 2)}
  differences.correct(found)
  assert [one["p_holm"] for one in found.values()] == [0.02, 0.02]


def test_a_true_null_is_rejected_at_five_per_cent():
  """Two thousand comparisons without a difference, of skewed scores."""
  rng = np.random.default_rng(0)
  table = np.subtract(*rng.exponential(size=(2, 60, 2000)))
  p = differences.sign_flip_p(table, seed=1, resamples=1999)
  assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=0.02)


def test_holm_keeps_the_error_of_a_whole_comparison():
  """Of 20 metrics without a difference hardly ever is any called one."""
  table = np.random.default_rng(1).normal(size=(50, 20 * 400))
  p = differences.sign_flip_p(table, seed=2, resamples=1999).reshape(400, 20)
  wrong = np.mean([differences.holm(one).min() <= 0.05 for one in p])
  assert wrong == pytest.approx(0.05, abs=0.02)
  assert np.mean(p.min(1) <= 0.05) > 0.5  # without the correction


def test_a_known_difference_is_found_at_the_stated_power():
  """.2 deviations and 200 users: 80.7 % by the normal distribution."""
  table = np.random.default_rng(2).normal(0.2, 1, size=(200, 1500))
  p = differences.sign_flip_p(table, seed=3, resamples=1999)
  power = stats.norm.cdf(0.2 * 200**0.5 - 1.96)
  assert power == pytest.approx(0.807, abs=0.001)
  assert np.mean(p <= 0.05) == pytest.approx(power, abs=0.03)


def _named(columns):
  """Makes {metric: [U]} of columns."""
  return {f"m{i}": values for i, values in enumerate(columns)}


def _seeds(rng, seeds, users, metrics, *, between, within=1.0, mean=0.0):
  """Makes {metric: [U]} of each seed; users keep what is theirs in all."""
  own = rng.normal(size=(users, metrics))  # a user's level, in every seed
  return [
    _named((own + mean + shift + noise).T)
    for shift, noise in zip(
      between * rng.normal(size=(seeds, metrics)),
      within * rng.normal(size=(seeds, users, metrics)),
      strict=True,
    )
  ]


def test_intervals_over_seeds_cover_what_another_seed_would_show():
  rng = np.random.default_rng(3)
  a, b = (_seeds(rng, 4, 100, 600, between=0.3) for _ in range(2))
  found = differences.between_seeds(a, b, seed=0, resamples=2000)
  covered = np.mean([c["low"] <= 0 <= c["high"] for c in found.values()])
  # Of four seeds nothing is known exactly: a little less than 95 %.
  assert 0.90 < covered < 0.98
  assert np.mean([c["p"] <= 0.05 for c in found.values()]) < 0.1
  # One seed's interval over users says nothing of the next seed's.
  alone = differences.between_seeds(a[:1], b[:1], seed=0, resamples=2000)
  covered = np.mean([c["low"] <= 0 <= c["high"] for c in alone.values()])
  assert covered < 0.75


def test_users_are_not_counted_once_per_seed():
  """Seeds that do not differ: as wide as of one seed, but for the noise."""
  rng = np.random.default_rng(4)
  rows = _seeds(rng, 5, 200, 1, between=0, within=0)
  zero = [{"m0": np.zeros(200)}]
  five = differences.between_seeds(rows, zero, seed=0)["m0"]
  one = differences.between_seeds(rows[:1], zero, seed=0)["m0"]
  assert five == pytest.approx(one)
  values = rows[0]["m0"]
  width = 2 * 1.96 * values.std() / 200**0.5
  assert five["high"] - five["low"] == pytest.approx(width, rel=0.05)


def test_seeds_widen_an_interval_as_their_variance_says():
  """Two seeds, 0 and 1, apart by d: the mean's variance is d^2 / 4."""
  rows = [{"x": np.zeros(50)}, {"x": np.ones(50)}]
  found = differences.between_seeds(rows, [{"x": np.zeros(50)}], seed=0)["x"]
  assert found["mean"] == 0.5
  # Moved from .5 by sqrt(2), sampled twice: -.207, .5 or 1.207.
  assert found["low"] == pytest.approx(0.5 - 0.5 * 2**0.5)
  assert found["high"] == pytest.approx(0.5 + 0.5 * 2**0.5)
  assert found["p"] == pytest.approx(0.5, abs=0.02)  # a quarter is below 0


def test_seeds_share_the_users_that_all_have():
  rows = [
    {"x": np.asarray([1.0, np.nan, 3.0]), "y": np.full(3, np.nan)},
    {"x": np.asarray([1.0, 50.0, 3.0]), "y": np.zeros(3), "z": np.zeros(3)},
  ]
  found = differences.between_seeds(
    rows, [{"x": np.zeros(3), "y": np.zeros(3)}], seed=0
  )
  assert found.keys() == {"x"}
  assert found["x"]["mean"] == 2


def test_differences_of_a_large_table_take_little_time():
  """1,024 users, 20 metrics, 4 contrasts: .6 s on two cores."""
  rng = np.random.default_rng(0)
  rows = {r: _named(rng.normal(size=(20, 1024))) for r in "abcde"}
  begun = time.process_time()
  differences.paired(rows, list(zip("abcd", "bcde", strict=True)), seed=0)
  assert time.process_time() - begun < 3
