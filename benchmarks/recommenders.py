"""Accuracy of the recommenders on a prepared data set, last items left out.

    python -m benchmarks.recommenders --data=data/movies [--seeds=3]

Every user's last item is ranked among all items that the user has not met, by
what came before it: HR@10, NDCG@10 and MRR, with 95 % intervals over users.
Trained on the items before the validation part, as the generator is. Histories
are read whole, up to --length items, not only the few that a prompt holds, so
that the numbers compare with those of papers.
"""

from collections.abc import Mapping

from absl import app, flags
import numpy as np

from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data import histories
from genrec_jax.evals import differences, intervals, retrieval
from genrec_jax.evals.held_out import Rows
from genrec_jax.evals.recommenders import fits, interactions

_DATA = flags.DEFINE_string("data", None, "A prepared data set.", required=True)
_LENGTH = flags.DEFINE_integer("length", 50, "Items of SASRec's histories.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Trainings of SASRec.")
Scores = Mapping[str, np.ndarray]  # {metric: [U]}
# The one left out looks at images; nothing is known of them here.
NAMES = ("most_popular", "item_knn", "sasrec")


def test_users(index) -> Rows:
  """Returns the test targets of an index, and all that comes before each."""
  users = np.arange(len(index.splits))
  targets = histories.target_ranges(
    "test", index.lengths_of(slice(None)), index.splits_of(slice(None))
  )
  trained = index.splits_of(slice(None)).train_end > 0
  # Of a data set with held-out users only these are tested.
  users = users[(targets.size > 0) & ~(index.held_out & trained)]
  first = targets.first[users]
  rows = [index.history(user) for user in users]
  before = tuple(row[:end] for row, end in zip(rows, first, strict=True))
  last = [row[end] for row, end in zip(rows, first, strict=True)]
  return Rows(history=before, seen=before, target=np.asarray(last, np.int64))


def main(argv):
  """Prints the table."""
  del argv
  dataset = dataset_lib.load(_DATA.value)
  users = test_users(dataset.index)
  known = fits.Known(
    interactions.training_interactions(dataset.index),
    embeds=np.zeros((len(dataset.items), 0)),
    length=_LENGTH.value,
    seed=0,
  )
  print(
    f"{len(users.target):,} users, {known.interactions.num_items:,} items,"
    f" {len(known.interactions.items):,} interactions to learn from"
  )
  rows = score_all(known, users, _SEEDS.value)
  print(f"{'':<22}" + "".join(f"{name:>24}" for name in rows["sasrec"]))
  for label, row in cells(rows).items():
    texts = [
      f"{c['mean']:.4f} [{c['low']:.4f}, {c['high']:.4f}]" for c in row.values()
    ]
    print(f"{label:<22}" + "".join(text.rjust(24) for text in texts))


def score_all(known: fits.Known, users: Rows, seeds: int) -> dict[str, Scores]:
  """Returns each recommender's scores; of SASRec each training's and the mean.

  Args:
    known: what they learn from; its seed is that of each training in turn.
    users: whom they rank for.
    seeds: trainings of SASRec.
  """
  rows: dict[str, Scores] = {}
  for name in NAMES:
    runs = []  # by seed
    for seed in range(seeds if name == "sasrec" else 1):
      found = fits.recommend_all([name], known._replace(seed=seed), users)
      runs.append(scores(found[name].ranks))
      if name == "sasrec":
        rows[f"{name} (seed {seed})"] = runs[-1]
    # Of several trainings each user's mean.
    rows[name] = {m: np.mean([run[m] for run in runs], 0) for m in runs[0]}
  return rows


def cells(
  rows: Mapping[str, Scores],
) -> Mapping[str, Mapping[str, intervals.Interval]]:
  """Returns all means, then SASRec's differences to the others, user by user.

  Args:
    rows: see `score_all`.
  """
  means = {
    label: intervals.bootstrap(row, seed=0) for label, row in rows.items()
  }
  pairs = [("sasrec", other) for other in NAMES[:-1]]
  return {**means, **differences.paired(rows, pairs, seed=0)}


def scores(ranks: np.ndarray) -> Scores:
  """Returns {metric: [U]} of ranks [U]."""
  return {
    "HR@10": retrieval.hit_rate(ranks, 10),
    "NDCG@10": retrieval.ndcg(ranks, 10),
    "MRR": retrieval.mrr(ranks),
  }


if __name__ == "__main__":
  app.run(main)
