import numpy as np
import pytest

from genrec_jax.evals import scores


def _unit(*rows):
  rows = np.asarray(rows, np.float32)
  return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_clip_scores_by_hand():
  samples = _unit([1, 0], [0, 1])[None]  # one user, two samples
  history = _unit([1, 0], [1, 1], [0, -1])[None]
  history_mask = np.asarray([[True, True, False]])
  future = _unit([0, 1], [1, 0])[None]
  future_mask = np.asarray([[True, False]])
  found = scores.clip_scores(
    samples, history, history_mask, future, future_mask, _unit([3, 4]), 0.9
  )
  half = 0.5**0.5
  expected = {
    "history_clip_mean": ((1 + half) / 2 + (0 + half) / 2) / 2,
    "history_clip_max": (1 + half) / 2,
    "future_clip_mean": 0.5,
    "text_clip": (0.6 + 0.8) / 2,
    "copy_rate": 0.5,
    "diversity": 1.0,
  }
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], [value], atol=1e-6, err_msg=name)


def test_what_is_undefined_is_nan_and_masked_nan_does_not_leak():
  samples = _unit([1, 0])[None]
  history = np.full((1, 2, 2), np.nan, np.float32)
  found = scores.clip_scores(
    samples,
    history,
    np.zeros((1, 2), bool),
    np.concatenate([samples, np.full_like(samples, np.nan)], 1),
    np.asarray([[True, False]]),
    samples[:, 0],
    0.9,
  )
  for name in ("history_clip_mean", "history_clip_max", "copy_rate"):
    assert np.isnan(found[name]).all(), name
  assert np.isnan(found["diversity"]).all()
  np.testing.assert_allclose(found["future_clip_mean"], [1.0], atol=1e-6)


def test_truth_scores_by_hand():
  wants = np.asarray([[1, 2, 3]])
  shown = np.asarray([[[1, 2, 0, 5, 1], [1, 2, 3, 0, 0]]])
  history = np.asarray([[[1, 2, 3, 0, 0], [1, 2, 0, 5, 1]]])
  mask = np.asarray([[True, False]])  # the second is padding
  found = scores.truth_scores(shown, history, mask, wants)
  expected = [(2 / 3 + 1) / 2]
  np.testing.assert_allclose(found["preference_match"], expected, atol=1e-6)
  np.testing.assert_allclose(found["copy_rate"], [0.5])


def test_diversity_and_spread_equal_the_loop_over_pairs():
  vectors = _unit(*np.random.default_rng(0).normal(size=(5, 7)))
  pairs = [
    1 - vectors[i] @ vectors[j] for i in range(5) for j in range(5) if i != j
  ]
  np.testing.assert_allclose(
    scores.diversity(vectors[None]), [np.mean(pairs)], rtol=1e-6
  )
  np.testing.assert_allclose(
    scores.spread(vectors), np.reshape(pairs, (5, 4)).mean(1), rtol=1e-6
  )
  same = np.repeat(vectors[:1], 3, 0)
  np.testing.assert_allclose(scores.diversity(same[None]), [0], atol=1e-6)


def test_bootstrap_is_seeded_and_near_the_normal_interval():
  values = np.random.default_rng(1).normal(2.0, 3.0, size=400)
  found = scores.bootstrap({"a": values}, seed=0)["a"]
  assert found == scores.bootstrap({"a": values}, seed=0)["a"]
  assert found != scores.bootstrap({"a": values}, seed=1)["a"]
  error = values.std() / 20
  assert found["mean"] == pytest.approx(values.mean())
  assert found["low"] == pytest.approx(values.mean() - 1.96 * error, abs=0.05)
  assert found["high"] == pytest.approx(values.mean() + 1.96 * error, abs=0.05)


def test_bootstrap_covers_the_mean_it_should():
  rng = np.random.default_rng(2)
  hits = []
  for seed in range(200):
    found = scores.bootstrap(
      {"a": rng.uniform(size=60)}, seed=seed, resamples=300
    )["a"]
    hits.append(found["low"] <= 0.5 <= found["high"])
  assert 0.88 < np.mean(hits) < 0.99


def test_paired_differences_are_of_the_same_users():
  rng = np.random.default_rng(0)
  a = rng.normal(size=300)  # users differ far more than rows do
  b = a + 0.1 + rng.normal(0, 0.05, size=300)
  found = scores.paired({"x": b, "only": b}, {"x": a}, seed=0)
  assert found.keys() == {"x"}
  cell = found["x"]
  assert cell["mean"] == pytest.approx((b - a).mean())
  error = 1.96 * (b - a).std() / 300**0.5
  assert cell["low"] == pytest.approx(cell["mean"] - error, abs=error / 5)
  assert cell["high"] == pytest.approx(cell["mean"] + error, abs=error / 5)
  assert found == scores.paired({"x": b}, {"x": a}, seed=0)
  gaps = np.asarray([0.0, np.nan, 2.0]), np.asarray([np.nan, 5.0, 1.0])
  cell = scores.paired({"x": gaps[0]}, {"x": gaps[1]}, seed=0)["x"]
  assert cell == {"mean": 1.0, "low": 1.0, "high": 1.0}


def test_bootstrap_leaves_out_users_without_the_metric():
  values = np.asarray([1.0, np.nan, 3.0, np.nan])
  found = scores.bootstrap(
    {"a": values, "none": np.full(4, np.nan), "b": np.ones(4)}, seed=0
  )
  assert set(found) == {"a", "b"}
  assert found["a"]["mean"] == 2.0
  assert 1.0 <= found["a"]["low"] <= found["a"]["high"] <= 3.0
  assert found["b"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
  assert scores.bootstrap({"none": np.full(4, np.nan)}, seed=0) == {}
