import numpy as np
import pytest

from genrec_jax.data import world
from genrec_jax.evals import held_out


@pytest.fixture
def prepared(batches, embed):
  return held_out.prepare(batches(known=True), embed.targets, 4)


def test_prepare_fills_the_last_batch(prepared):
  assert [window.count for window in prepared] == [4, 4, 2]
  for window in prepared:
    assert window.batch.future.shape[0] == 4
    assert window.targets.history.shape[:2] == (4, 5)
    assert window.wants.shape == (4, 3)
    assert len(window.names) == window.count
  np.testing.assert_array_equal(
    prepared[-1].batch.future[2], prepared[-1].batch.future[0]
  )


def test_prepare_fills_a_first_batch_that_is_short(batches, embed):
  (window,) = held_out.prepare(list(batches(known=True))[-1:], embed.targets, 8)
  assert window.count == 2
  assert window.batch.future.shape[0] == 8


def test_prepare_reads_the_attributes_of_the_history(prepared):
  images = world.render(prepared[0].attributes)
  np.testing.assert_array_equal(images, prepared[0].batch.prompt.images)


def test_prepare_claims_no_truth_it_was_not_given(batches, embed):
  for window in held_out.prepare(batches(known=False), embed.targets, 4):
    assert window.wants is None
    assert window.attributes is None


@pytest.mark.parametrize("users", [2, 10, 1024])
def test_a_derangement_is_one_cycle_through_all_users(users):
  source = held_out.derangement(users, seed=0)
  np.testing.assert_array_equal(source, held_out.derangement(users, seed=0))
  seen, user = [], 0
  for _ in range(users):
    seen.append(user)
    user = source[user]
  assert user == 0
  assert sorted(seen) == list(range(users))


def test_shuffling_needs_two_users():
  with pytest.raises(ValueError, match="two or more"):
    held_out.derangement(1, seed=0)


def test_scores_by_another_users_samples(prepared, embed):
  """User u's score is that of source[u]'s samples against u's targets."""
  source = held_out.derangement(10, seed=0)
  images = np.concatenate([w.batch.prompt.images[: w.count] for w in prepared])
  embeds = np.asarray(embed.images(images))
  known = [w.attributes[: w.count] for w in prepared]
  found = held_out.score_others(
    prepared, embeds, np.concatenate(known), source, 0.95
  )
  users = [(w, row) for w in prepared for row in range(w.count)]
  for user, (window, row) in enumerate(users):
    only = window.batch.prompt.images[:, None, 0].copy()
    only = np.repeat(only, images.shape[1], 1)
    only[row] = images[source[user]]
    expected = held_out.score(
      window, embed.images(only), held_out.read_attributes(window, only), 0.95
    )
    for metric, values in found.items():
      assert values.shape == (10,)
      np.testing.assert_allclose(
        values[user], expected[metric][row], rtol=1e-6, err_msg=metric
      )


def test_grid_has_a_row_per_user(prepared):
  samples = np.zeros((5, 2, 32, 32, 3), np.uint8)
  grid = held_out.grid(prepared, samples)
  assert grid.dtype == np.uint8
  assert grid.shape[0] == 5 * 32 + 4 * 2
  # 5 of the history, 2 samples, 1 real; 2 px after each, 4 more between parts.
  assert grid.shape[1] == 8 * 32 + 7 * 2 + 2 * 4
  first = prepared[0].batch
  np.testing.assert_array_equal(grid[:32, :32], first.history[0, 0])
  np.testing.assert_array_equal(grid[:32, -32:], first.future[0, 0])
  # The first user's history has three items: what follows is light, not black.
  missing = grid[:32, 3 * 34 : 5 * 34 - 2]
  assert missing.min() > 200
  assert prepared[0].batch.prompt.images[0, 3].min() < 200
  last = prepared[1].batch  # the fifth user
  np.testing.assert_array_equal(grid[-32:, -32:], last.future[0, 0])
