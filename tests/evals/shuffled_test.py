import numpy as np
import pytest

from genrec_jax.evals import held_out, shuffled


@pytest.fixture
def prepared(batches, judge):
  return held_out.prepare(batches(known=True), judge.embed_targets, 4)


@pytest.mark.parametrize("users", [2, 10, 1024])
def test_a_derangement_is_one_cycle_through_all_users(users):
  source = shuffled.derangement(users, seed=0)
  np.testing.assert_array_equal(source, shuffled.derangement(users, seed=0))
  seen, user = [], 0
  for _ in range(users):
    seen.append(user)
    user = source[user]
  assert user == 0
  assert sorted(seen) == list(range(users))


def test_shuffling_needs_two_users():
  with pytest.raises(ValueError, match="two or more"):
    shuffled.derangement(1, seed=0)


def test_scores_by_another_users_samples(prepared, judge):
  """User u's score is that of source[u]'s samples against u's targets."""
  source = shuffled.derangement(10, seed=0)
  images = np.concatenate([w.batch.prompt.images[: w.count] for w in prepared])
  embeds = judge.embed_images(images)
  known = [w.truth.history[: w.count] for w in prepared]
  found = shuffled.score_shuffled(
    judge, prepared, embeds, np.concatenate(known), source
  )
  users = [(w, row) for w in prepared for row in range(w.count)]
  for user, (held, row) in enumerate(users):
    only = held.batch.prompt.images[:, None, 0].copy()
    only = np.repeat(only, images.shape[1], 1)
    only[row] = images[source[user]]
    expected = judge.score(
      held, judge.embed_images(only), held_out.read_attributes(held, only)
    )
    for metric, values in found.items():
      assert values.shape == (10,)
      np.testing.assert_allclose(
        values[user], expected[metric][row], rtol=1e-6, err_msg=metric
      )
