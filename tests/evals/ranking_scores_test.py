import numpy as np
import pytest

from genrec_jax.evals import ranking_scores
from genrec_jax.targets import Targets


def unit(*rows):
  rows = np.asarray(rows, np.float32)
  return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


CATALOGUE = unit([1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0])


def compare(samples, seen=(), target=0, threshold=0.9, trained=(1, 1, 1, 1)):
  return ranking_scores.in_catalogue(
    samples,
    CATALOGUE,
    seen=[np.asarray(seen, int)],
    target=np.asarray([target]),
    trained=np.asarray(trained, bool),
    copy_threshold=threshold,
  )


def test_the_next_item_is_ranked_by_its_nearest_sample():
  # By the first alone the third item is last, by the second first.
  samples = unit([4, 3, 0], [0, 1, 9])[None]
  assert compare(samples[:, :1], target=2).ranks == [4]
  assert compare(samples, target=2).ranks == [1]
  # The nearest samples: 4/5 of item 0, 3/5 of item 1, 7/(5 sqrt 2) of item 3.
  assert compare(samples, target=1).ranks == [4]
  assert compare(samples, target=1, seen=[0, 3]).ranks == [2]


def test_copies_of_the_catalogue_are_of_trained_items_only():
  samples = unit([1, 0, 0], [1, 1, 1])[None]
  assert compare(samples).copies == [0.5]
  assert compare(samples, trained=(0, 1, 1, 1)).copies == [0]
  assert compare(samples, threshold=0.8).copies == [1]  # 2 / sqrt 6
  assert compare(samples, threshold=None).copies is None


def test_users_may_be_taken_some_at_a_time(monkeypatch):
  rng = np.random.default_rng(0)
  samples = unit(*rng.normal(size=(5, 3))).reshape(5, 1, 3)
  given = {
    "seen": [np.asarray([u % 4]) for u in range(5)],
    "target": np.arange(5) % 3,
    "trained": np.ones(4, bool),
    "copy_threshold": 0.9,
  }
  whole = ranking_scores.in_catalogue(samples, CATALOGUE, **given)
  monkeypatch.setattr(ranking_scores, "_CHUNK", 8)  # two users
  parts = ranking_scores.in_catalogue(samples, CATALOGUE, **given)
  np.testing.assert_array_equal(whole.ranks, parts.ranks)
  np.testing.assert_array_equal(whole.copies, parts.copies)


def test_candidates_are_the_unseen_and_the_next_item():
  seen = [np.asarray([0, 1]), np.asarray([2, 2]), np.asarray([], int)]
  found = ranking_scores.candidates(seen, np.asarray([0, 3, 3]), 5)
  assert found.tolist() == [4, 4, 5]


def test_retrieval_scores_by_hand():
  found = ranking_scores.retrieval_scores(
    np.asarray([1.0, 3.0, 11.0]), np.asarray([100.0, 200.0, 5.0]), "eye"
  )
  expected = {
    "hit_rate_eye": [1, 1, 0],
    "ndcg_eye": [1, 0.5, 0],
    "mrr_eye": [1, 1 / 3, 1 / 11],
    "lift_eye": [10, 20, 0],
  }
  assert found.keys() == expected.keys()
  for name, values in expected.items():
    np.testing.assert_allclose(found[name], values, err_msg=name)


def test_the_lift_of_random_rankings_is_one():
  rng = np.random.default_rng(0)
  candidates = rng.integers(20, 200, size=200_000)
  ranks = rng.integers(1, candidates + 1).astype(float)
  found = ranking_scores.retrieval_scores(ranks, candidates, "eye")
  assert found["lift_eye"].mean() == pytest.approx(1, abs=0.02)
  few = ranking_scores.retrieval_scores(
    np.asarray([3.0]), np.asarray([5.0]), "eye"
  )
  assert few["lift_eye"] == [1]  # of five items ten are all


def targets(future, mask=None):
  future = np.asarray(future, np.float32)
  return Targets(
    text=None,
    history=None,
    history_mask=None,
    future=future,
    future_mask=np.ones(future.shape[:2], bool) if mask is None else mask,
  )


def test_discrimination_by_hand():
  future = unit([1, 0, 0], [0, 1, 0], [0, 0, 1])[:, None]
  # One user shows their own future, one the next one's, one all alike.
  samples = unit([1, 0, 0], [0, 0, 1], [1, 1, 1])[:, None]
  found = ranking_scores.discrimination(samples, targets(future), seed=0)
  assert found.tolist() == [1, 0.25, 0.5]


def test_discrimination_averages_samples_and_the_horizon():
  own = [[1, 0, 0], [0, 1, 0]]
  other = [[0.4, 0, 1], [9, 9, 9]]  # of the other user one item is known
  mask = np.asarray([[True, True], [True, False]])
  samples = np.asarray([[[1, 0, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 1]]])
  found = ranking_scores.discrimination(
    samples, targets([own, other], mask), seed=0
  )
  # Of the first sample .5 against .4, of the second 0 against 1.
  assert found.tolist() == [0.5, 0.5]


def test_discrimination_is_from_99_others_and_chance_is_a_half():
  rng = np.random.default_rng(0)
  future = unit(*rng.normal(size=(300, 5)))[:, None]
  samples = unit(*rng.normal(size=(300, 5)))[:, None]
  found = ranking_scores.discrimination(samples, targets(future), seed=0)
  counted = found * 99  # whole numbers
  np.testing.assert_allclose(counted, np.round(counted), atol=1e-9)
  assert found.mean() == pytest.approx(0.5, abs=0.05)
  own = ranking_scores.discrimination(future, targets(future), seed=0)
  assert (own == 1).all()
  alone = ranking_scores.discrimination(future[:1], targets(future[:1]), seed=0)
  assert np.isnan(alone).all()
