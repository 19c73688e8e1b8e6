import numpy as np
import pytest

from genrec_jax.evals import retrieval


def ranked(scores, target, seen=()):
  """Returns the rank of one user's target."""
  mask = np.zeros((1, len(scores)), bool)
  mask[0, list(seen)] = True
  return retrieval.ranks(np.asarray([scores]), mask, np.asarray([target]))[0]


def test_rank_counts_the_items_above():
  assert ranked([0.1, 0.9, 0.5, 0.3], target=1) == 1
  assert ranked([0.1, 0.9, 0.5, 0.3], target=3) == 3
  assert ranked([0.1, 0.9, 0.5, 0.3], target=0) == 4
  assert ranked([7.0], target=0) == 1


def test_equal_scores_share_the_mean_of_their_ranks():
  # One above, then three alike on the places 2, 3 and 4.
  assert ranked([0.5, 0.9, 0.5, 0.5, 0.1], target=0) == 3
  # Two alike on the places 1 and 2.
  assert ranked([0.5, 0.5, 0.1], target=1) == 1.5
  # To whom all are alike, the target stands in the middle.
  assert ranked(np.zeros(9), target=4) == 5


def test_seen_items_are_left_out_and_the_target_is_not():
  scores = [0.9, 0.8, 0.7, 0.6]
  assert ranked(scores, target=3) == 4
  assert ranked(scores, target=3, seen=[0, 2]) == 2
  # A repeated item is still the answer.
  assert ranked(scores, target=3, seen=[0, 3]) == 3
  # Nor does a seen item of the same score share the rank.
  assert ranked([0.5, 0.5, 0.1], target=0, seen=[1]) == 1


def test_later_items_of_the_horizon_stay_rivals():
  # The user goes on to item 2 and then to item 0, which scores higher.
  assert ranked([0.9, 0.1, 0.5], target=2) == 2


def test_users_are_ranked_each_by_their_own_scores():
  scores = np.asarray([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [3.0, 2.0, 1.0]])
  seen = np.asarray([[0, 0, 1], [0, 0, 0], [0, 0, 0]], bool)
  found = retrieval.ranks(scores, seen, np.asarray([1, 0, 2]))
  assert found.dtype == np.float64
  assert found.tolist() == [1, 3, 3]
  assert seen.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]  # left as it was


def test_an_item_that_cannot_be_scored_comes_last():
  assert ranked([-np.inf, 0.2, 0.1], target=0) == 3
  with pytest.raises(ValueError, match="NaN"):
    ranked([np.nan, 0.2, 0.1], target=1)


def test_metrics_of_ranks_by_hand():
  ranks = np.asarray([1.0, 2.0, 3.0, 10.0, 10.5, 11.0])
  assert retrieval.hit_rate(ranks, 10).tolist() == [1, 1, 1, 1, 0, 0]
  assert retrieval.hit_rate(ranks, 1).tolist() == [1, 0, 0, 0, 0, 0]
  # 1 / log2(2), 1 / log2(3), 1 / log2(4), 1 / log2(11).
  expected = [1, 0.6309297535714575, 0.5, 0.28906482631788787, 0, 0]
  assert retrieval.ndcg(ranks, 10) == pytest.approx(expected, abs=1e-12)
  assert retrieval.mrr(ranks)[:3] == pytest.approx([1, 0.5, 1 / 3])
  assert retrieval.mrr(ranks).dtype == np.float64


def test_chance_is_what_random_scores_get():
  # 1,000 items of which one is true: HR@10 is 1 %, whatever was seen.
  rng = np.random.default_rng(0)
  users, items = 4000, 1000
  scores = rng.normal(size=(users, items))
  seen = rng.random((users, items)) < 0.1
  ranks = retrieval.ranks(scores, seen, rng.integers(items, size=users))
  # 899 rivals or so are left: ranks are uniform from 1 to 900.
  assert ranks.mean() == pytest.approx(450.5, abs=3 * 260 / users**0.5)
  rate = retrieval.hit_rate(ranks, 10).mean()
  assert rate == pytest.approx(1 / 90, abs=3 * (1 / 90 / users) ** 0.5)
