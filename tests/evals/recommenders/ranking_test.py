import numpy as np

from genrec_jax.evals.recommenders import ranking


def test_the_best_is_unseen_and_the_target_is_ranked():
  scores = np.asarray([[5.0, 4.0, 3.0, 2.0], [1.0, 1.0, 1.0, 9.0]])
  calls = []

  def score(histories):
    calls.append(len(histories))
    return scores[[history[0] for history in histories]]

  found = ranking.recommend(
    score,
    histories=[np.asarray([0]), np.asarray([1]), np.asarray([0])],
    seen=[np.asarray([0]), np.asarray([3]), np.asarray([0, 1])],
    target=np.asarray([2, 0, 3]),
    batch_size=2,
  )
  np.testing.assert_array_equal(found.best, [1, 0, 2])
  # The second user's three unseen items are alike: the mean of 1, 2 and 3.
  np.testing.assert_array_equal(found.ranks, [2, 2, 2])
  assert calls == [2, 1]
