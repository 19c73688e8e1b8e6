import evalica
import numpy as np
import pandas as pd
import pytest

from genrec_jax.study.agreement import alpha


def of_table(table):
  """Returns our alpha of raters x units, NaN where a rater says nothing."""
  rater, unit = np.nonzero(~np.isnan(table))
  del rater
  return alpha(unit, table[~np.isnan(table)].astype(int))


def test_by_hand():
  # Units aa, ab: coincidences aa 2, ab 1, ba 1. D_o = 2 / 4; of 4 values three
  # are a: D_e = 2 x 3 x 1 / (4 x 3) = 1 / 2.
  assert alpha(np.asarray([0, 0, 1, 1]), np.asarray([0, 0, 0, 1])) == 0


def test_agreement_is_one_and_disagreement_is_negative():
  units = np.asarray([0, 0, 1, 1, 2, 2])
  assert alpha(units, np.asarray([1, 1, 2, 2, 3, 3])) == 1
  assert alpha(units, np.asarray([1, 2, 1, 2, 1, 2])) < 0
  assert alpha(units, np.ones(6, int)) == 1  # nobody disagreed


def test_units_with_one_value_say_nothing():
  units, values = np.asarray([0, 0, 1, 1]), np.asarray([0, 1, 1, 1])
  more = np.concatenate([units, [7, 8]]), np.concatenate([values, [0, 2]])
  assert alpha(*more) == alpha(units, values)
  assert np.isnan(alpha(np.arange(3), np.ones(3, int)))


@pytest.mark.parametrize("seed", range(20))
def test_it_equals_evalicas(seed):
  rng = np.random.default_rng(seed)
  truth = rng.integers(3, size=40)
  noise = rng.integers(3, size=(12, 40))
  table = np.where(rng.random((12, 40)) < 0.4, truth, noise).astype(float)
  table[rng.random(table.shape) < 0.6] = np.nan
  theirs = evalica.alpha(pd.DataFrame(table), "nominal").alpha
  assert of_table(table) == pytest.approx(theirs, abs=1e-6)
