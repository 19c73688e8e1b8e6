import numpy as np
import pytest

from genrec_jax.evals.recommenders import interactions, neighbours

# Users who have had items 0 to 3; item 4 nobody has had.
HAD = interactions.of_histories([[0, 1], [0, 1, 2], [1, 2], [3]], num_items=5)


def test_most_popular_is_the_same_for_all():
  score = neighbours.most_popular(HAD)
  np.testing.assert_array_equal(
    score([np.asarray([0]), np.asarray([3, 1])]), [[2, 3, 2, 1, 0]] * 2
  )


def test_item_knn_by_hand():
  score = neighbours.item_knn(HAD, shrink=0.0)
  found = score([np.asarray([0]), np.asarray([0, 2])])
  with_1, with_2 = 2 / 6**0.5, 1 / 2  # 2 of 2 and 3 users; 1 of 2 and 2
  np.testing.assert_allclose(found[0], [0, with_1, with_2, 0, 0], atol=0)
  np.testing.assert_allclose(
    found[1], [with_2, with_1 + 2 / 6**0.5, with_2, 0, 0], rtol=1e-12
  )


def test_shrinkage_distrusts_pairs_of_few_users():
  score = neighbours.item_knn(HAD, shrink=2.0)
  assert score([np.asarray([0])])[0, 1] == pytest.approx(2 / (6**0.5 + 2))


def test_item_knn_counts_a_user_once():
  twice = interactions.of_histories([[0, 1, 1, 0]], num_items=2)
  assert neighbours.item_knn(twice, shrink=0.0)([np.asarray([0])])[0, 1] == 0.5


def test_content_knn_follows_the_newest():
  angles = np.linspace(0, np.pi / 2, 10)
  embeds = np.stack([np.cos(angles), np.sin(angles)], 1)  # [10, 2]
  score = neighbours.content_knn(embeds, decay=0.5)
  old_first, new_first = score([np.asarray([0, 9]), np.asarray([9, 0])])
  mean = (embeds[0] + 2 * embeds[9]) / 3
  np.testing.assert_allclose(old_first, embeds @ mean, rtol=1e-12)
  np.testing.assert_allclose(new_first, old_first[::-1], rtol=1e-12)
  assert old_first.argmax() == 6  # nearest to arctan 2, 63 of 90 degrees
