import numpy as np

from genrec_jax.data.histories import split_points
from genrec_jax.data.index import Index
from genrec_jax.evals.recommenders import interactions


def index_of(histories, num_items, *, held_out=(), horizon=1):
  """Returns the index of a data set of histories."""
  lengths = [len(history) for history in histories]
  splits = [
    split_points(length, horizon, held_out=user in held_out)
    for user, length in enumerate(lengths)
  ]
  return Index(
    history_starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    item_rows=np.concatenate(histories).astype(np.int32),
    splits=np.asarray(splits, np.int32),
    title_starts=np.arange(num_items + 1),
    title_bytes=np.zeros(num_items, np.uint8),
  )


def test_a_held_out_user_teaches_nothing():
  histories = [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [9, 0, 5, 1, 6]]
  found = interactions.training_interactions(
    index_of(histories, 10, held_out=[1])
  )
  np.testing.assert_array_equal(found.starts, [0, 3, 3, 6])
  np.testing.assert_array_equal(found.items, [0, 1, 2, 9, 0, 5])
  np.testing.assert_array_equal(found.users, [0, 0, 0, 2, 2, 2])
  assert found.num_items == 10


def test_validation_and_test_items_teach_nothing_for_any_lengths():
  rng = np.random.default_rng(0)
  for horizon in (1, 3):
    histories = [rng.permutation(50)[: rng.integers(1, 12)] for _ in range(100)]
    held_out = set(range(0, 100, 3))
    index = index_of(histories, 50, held_out=held_out, horizon=horizon)
    found = interactions.training_interactions(index)
    for user, history in enumerate(histories):
      own = found.items[found.starts[user] : found.starts[user + 1]]
      hidden = 0 if len(history) < 3 else min(horizon, (len(history) - 1) // 2)
      end = 0 if user in held_out else len(history) - 2 * hidden
      np.testing.assert_array_equal(own, history[:end])


def test_counts_are_of_the_whole_catalogue():
  found = interactions.of_histories([[1, 3], [], [3]], num_items=5)
  np.testing.assert_array_equal(found.counts, [0, 1, 0, 2, 0])
  np.testing.assert_array_equal(found.users, [0, 0, 2])
  empty = interactions.of_histories([], num_items=2)
  np.testing.assert_array_equal(empty.counts, [0, 0])
