"""The table of recommenders: seeds, means and paired differences."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import recommenders
from genrec_jax.evals.held_out import Rows
from genrec_jax.evals.recommenders import fits, interactions


@pytest.fixture
def known():
  learned = interactions.of_histories([np.arange(5)], 30)
  return fits.Known(learned, np.zeros((30, 0)), length=4, seed=0)


@pytest.fixture
def users():
  seen = (np.arange(3),) * 4
  return Rows(history=seen, seen=seen, target=np.full(4, 20))


def test_sasrec_is_trained_anew_by_each_seed(known, users, monkeypatch):
  def recommend_all(names, given, rows):
    [name] = names
    ranks = np.asarray([1, 2, 20, 20]) + (given.seed if name == "sasrec" else 4)
    assert rows is users
    return {name: SimpleNamespace(ranks=ranks)}

  monkeypatch.setattr(fits, "recommend_all", recommend_all)
  rows = recommenders.score_all(known, users, seeds=2)
  assert list(rows) == [
    "most_popular",
    "item_knn",
    "sasrec (seed 0)",
    "sasrec (seed 1)",
    "sasrec",
  ]
  first, second = (rows[f"sasrec (seed {seed})"]["MRR"] for seed in (0, 1))
  assert first == pytest.approx([1, 1 / 2, 1 / 20, 1 / 20])
  assert second == pytest.approx([1 / 2, 1 / 3, 1 / 21, 1 / 21])
  assert rows["sasrec"]["MRR"] == pytest.approx((first + second) / 2)
  assert rows["item_knn"]["HR@10"].tolist() == [1, 1, 0, 0]


def test_differences_to_sasrec_are_paired():
  rng = np.random.default_rng(0)
  users = rng.normal(size=200)  # differ more than recommenders do
  rows = {
    name: {"MRR": users + shift}
    for name, shift in (
      ("most_popular", 0.0),
      ("item_knn", 0.2),
      ("sasrec", 0.3),
    )
  }
  cells = recommenders.cells(rows)
  assert list(cells) == [
    *rows,
    "sasrec - most_popular",
    "sasrec - item_knn",
  ]
  for other, expected in (("most_popular", 0.3), ("item_knn", 0.1)):
    cell = cells[f"sasrec - {other}"]["MRR"]
    for end in ("mean", "low", "high"):
      assert cell[end] == pytest.approx(expected)
  assert cells["sasrec"]["MRR"]["mean"] == pytest.approx(users.mean() + 0.3)
  assert cells["sasrec"]["MRR"]["high"] > users.mean() + 0.4
