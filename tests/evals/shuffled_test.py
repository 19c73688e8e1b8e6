import numpy as np
import pytest

from genrec_jax.evals import shuffled


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
