import numpy as np

from genrec_jax import rows
from genrec_jax.evals.held_out import Rows
from genrec_jax.evals.recommenders import fits, interactions


def test_every_row_of_recommenders_can_be_fitted():
  assert fits.FITS.keys() == rows.RECOMMENDERS.keys()


def known(rng, embeds):
  histories = [rng.permutation(30)[:6] for _ in range(40)]
  return fits.Known(
    interactions.of_histories(histories, 30), embeds, length=4, seed=0
  )


def test_a_hidden_target_changes_no_recommendation():
  """Whatever the true next item is, what is shown stays."""
  rng = np.random.default_rng(0)
  embeds = rng.normal(size=(30, 3))
  learned = known(rng, embeds)
  seen = tuple(rng.permutation(30)[:7] for _ in range(5))
  shown = tuple(items[-4:] for items in seen)
  found = [
    fits.recommend_all(fits.FITS, learned, Rows(shown, seen, target))
    for target in (np.full(5, 3), np.full(5, 17))
  ]
  assert list(found[0]) == list(fits.FITS)
  for name in fits.FITS:
    best = found[0][name].best
    np.testing.assert_array_equal(best, found[1][name].best)
    assert not any(b in items for b, items in zip(best, seen, strict=True))
    assert ((found[0][name].ranks >= 1) & (found[0][name].ranks <= 24)).all()
