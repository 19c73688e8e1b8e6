import numpy as np

from genrec_jax.evals import scores
from genrec_jax.rewards import Targets


def _unit(*rows):
  rows = np.asarray(rows, np.float32)
  return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_clip_scores_by_hand():
  samples = _unit([1, 0], [0, 1])[None]  # one user, two samples
  history = _unit([1, 0], [1, 1], [0, -1])[None]
  history_mask = np.asarray([[True, True, False]])
  future = _unit([0, 1], [1, 0])[None]
  future_mask = np.asarray([[True, False]])
  targets = Targets(_unit([3, 4]), history, history_mask, future, future_mask)
  found = scores.clip_scores(samples, targets, copy_threshold=0.9)
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
  targets = Targets(
    text=samples[:, 0],
    history=history,
    history_mask=np.zeros((1, 2), bool),
    future=np.concatenate([samples, np.full_like(samples, np.nan)], 1),
    future_mask=np.asarray([[True, False]]),
  )
  found = scores.clip_scores(samples, targets, copy_threshold=0.9)
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
