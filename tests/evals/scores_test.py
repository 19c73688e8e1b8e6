import numpy as np

from genrec_jax.evals import scores
from genrec_jax.evals.held_out import Truth
from genrec_jax.targets import Targets


def _unit(*rows):
  rows = np.asarray(rows, np.float32)
  return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_similarity_scores_by_hand():
  samples = _unit([1, 0], [0, 1])[None]  # one user, two samples
  history = _unit([1, 0], [1, 1], [0, -1])[None]
  history_mask = np.asarray([[True, True, False]])
  future = _unit([0, 1], [1, 0])[None]
  future_mask = np.asarray([[True, False]])
  targets = Targets(_unit([3, 4]), history, history_mask, future, future_mask)
  found = scores.similarity_scores(samples, targets, 0.9)
  half = 0.5**0.5
  expected = {
    "history_clip_mean": ((1 + half) / 2 + (0 + half) / 2) / 2,
    "history_clip_max": (1 + half) / 2,
    "future_clip_mean": 0.5,
    "future_clip_next": 0.5,
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
  found = scores.similarity_scores(samples, targets, 0.9)
  for name in ("history_clip_mean", "history_clip_max", "copy_rate"):
    assert np.isnan(found[name]).all(), name
  assert np.isnan(found["diversity"]).all()
  np.testing.assert_allclose(found["future_clip_mean"], [1.0], atol=1e-6)


def test_truth_scores_by_hand():
  wants = np.asarray([[1, 2, 3]])
  shown = np.asarray([[[1, 2, 0, 5, 1], [1, 2, 3, 0, 0]]])
  history = np.asarray([[[1, 2, 3, 0, 0], [1, 2, 0, 5, 1]]])
  future = np.asarray([[[1, 2, 3, 5, 1], [9, 9, 0, 9, 9], [1, 2, 3, 0, 0]]])
  mask = np.asarray([[True, False]])  # the second is padding
  ahead = np.asarray([[True, True, False]])
  truth = Truth(wants, history, future)
  found = scores.truth_scores(shown, truth, mask, ahead)
  expected = [(2 / 3 + 1) / 2]
  np.testing.assert_allclose(found["preference_match"], expected, atol=1e-6)
  np.testing.assert_allclose(found["copy_rate"], [0.5])
  # Of the first 4 and 1 of five attributes, of the second 3 and 0.
  np.testing.assert_allclose(found["future_match"], [(4 + 1 + 3 + 0) / 20])


def test_diversity_and_spread_equal_the_loop_over_pairs():
  vectors = _unit(*np.random.default_rng(0).normal(size=(5, 7)))
  pairs = [
    1 - vectors[i] @ vectors[j] for i in range(5) for j in range(5) if i != j
  ]
  np.testing.assert_allclose(
    scores.diversity(vectors[None]), [np.mean(pairs)], rtol=1e-6
  )
  np.testing.assert_allclose(
    scores.spread(vectors[:, None]),
    np.reshape(pairs, (5, 4)).mean(1),
    rtol=1e-6,
  )
  same = np.repeat(vectors[:1], 3, 0)
  np.testing.assert_allclose(scores.diversity(same[None]), [0], atol=1e-6)


def test_spread_is_over_all_samples_of_other_users():
  vectors = _unit(*np.random.default_rng(1).normal(size=(6, 7)))
  samples = vectors.reshape(3, 2, 7)
  expected = [
    1 - np.mean(samples[u] @ np.delete(samples, u, 0).reshape(4, 7).T)
    for u in range(3)
  ]
  np.testing.assert_allclose(scores.spread(samples), expected, rtol=1e-6)
  assert np.isnan(scores.spread(samples[:1])).all()


def test_a_judges_scores_have_its_name():
  samples = _unit([1, 0])[None]
  targets = Targets(
    text=None,
    history=samples,
    history_mask=np.ones((1, 1), bool),
    future=np.stack([_unit([0, 1], [1, 0])]),
    future_mask=np.ones((1, 2), bool),
  )
  found = scores.similarity_scores(samples, targets, 0.9, "eye")
  assert found.keys() == {
    "history_eye_mean",
    "history_eye_max",
    "future_eye_mean",
    "future_eye_next",
    "copy_rate_eye",
    "diversity_eye",
  }
  assert found["future_eye_next"] == [0]
  assert found["future_eye_mean"] == [0.5]
  assert found["copy_rate_eye"] == [1]
  without = scores.similarity_scores(samples, targets, None, "eye")
  assert found.keys() - without.keys() == {"copy_rate_eye"}
