import numpy as np
import pytest

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
  rng = np.random.default_rng(2)
  hits = []
  for seed in range(200):
    found = intervals.bootstrap(
      {"a": rng.uniform(size=60)}, seed=seed, resamples=300
    )["a"]
    hits.append(found["low"] <= 0.5 <= found["high"])
  assert 0.88 < np.mean(hits) < 0.99


def test_paired_differences_are_of_the_same_users():
  rng = np.random.default_rng(0)
  a = rng.normal(size=300)  # users differ far more than rows do
  b = a + 0.1 + rng.normal(0, 0.05, size=300)
  found = intervals.paired({"x": b, "only": b}, {"x": a}, seed=0)
  assert found.keys() == {"x"}
  cell = found["x"]
  assert cell["mean"] == pytest.approx((b - a).mean())
  error = 1.96 * (b - a).std() / 300**0.5
  assert cell["low"] == pytest.approx(cell["mean"] - error, abs=error / 5)
  assert cell["high"] == pytest.approx(cell["mean"] + error, abs=error / 5)
  assert found == intervals.paired({"x": b}, {"x": a}, seed=0)
  gaps = np.asarray([0.0, np.nan, 2.0]), np.asarray([np.nan, 5.0, 1.0])
  cell = intervals.paired({"x": gaps[0]}, {"x": gaps[1]}, seed=0)["x"]
  assert cell == {"mean": 1.0, "low": 1.0, "high": 1.0}


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
