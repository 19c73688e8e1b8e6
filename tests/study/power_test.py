import numpy as np
import pytest

from genrec_jax.study.power import votes_needed


@pytest.mark.parametrize(
  ("rate", "votes"), [(0.55, 783), (0.6, 194), (0.65, 85)]
)
def test_votes_for_a_power_of_four_fifths(rate, votes):
  assert votes_needed(rate) == votes


def test_votes_of_one_rater_count_for_less():
  # 193.8 (1 + 9 x 0.2) = 542.8
  assert votes_needed(0.6, per_rater=10, correlation=0.2) == 543
  assert votes_needed(0.6, per_rater=10, correlation=0) == 194


def test_so_many_votes_find_the_difference_as_often_as_said():
  n = votes_needed(0.6)
  wins = np.random.default_rng(0).binomial(n, 0.6, size=20_000)
  z = (wins / n - 0.5) / np.sqrt(0.25 / n)
  assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.8, abs=0.02)


def test_no_difference_takes_no_number_of_votes():
  with pytest.raises(ValueError, match="above"):
    votes_needed(0.5)
