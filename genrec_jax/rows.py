"""Rows of an evaluation's table that are no models: names, titles, notes.

Models are named by their runs ('base', 'sft', 'rl'), and with another user's
histories 'rl shuffled'; every other name of a row stands here, once.
"""

import collections
from typing import NamedTuple


class Row(NamedTuple):
  """What a reader of the table is told of a row."""

  title: str
  note: str


# What can be shown to a user without any generating: the best unseen item of a
# ranking of the catalogue. The keys are values of `eval.recommenders`.
RECOMMENDERS = {
  "most_popular": Row("most popular", "unseen item with the most interactions"),
  "item_knn": Row("item-kNN", "unseen item that most often goes with the seen"),
  "content_knn": Row(
    "content-kNN", "unseen item that looks most like the seen"
  ),
  "sasrec": Row("SASRec", "unseen item that a sequential recommender picks"),
}
# Where the truth is known: what the most that a history tells is worth.
ORACLES = {
  "oracle_best_guess": Row("best guess", "unseen item of the likeliest wants"),
  "oracle_ideal_sample": Row("ideal sample", "samples of the true posterior"),
}
BASELINES = {
  "real_next_item": Row("real next item", "what the user really chose"),
  "vq_ceiling": Row("VQ ceiling", "real next item, encoded and decoded"),
  "random_item": Row("random item", "chance"),
  "copy_last": Row("copy last", "repeats the newest history image"),
}
# {group: {name: row}} in the order of the table, below the models.
GROUPS = {
  "recommender": RECOMMENDERS,
  "oracle": ORACLES,
  "baseline": BASELINES,
}
# All of them by name; a recommender that is added is among them, too.
ROWS = collections.ChainMap(*GROUPS.values())


def title(name: str) -> str:
  """Returns a row's name as a reader sees it; models keep theirs."""
  return ROWS[name].title if name in ROWS else name.replace("_", " ")


def note(name: str) -> str:
  """Returns what a row is, in a few words; '' of a model."""
  return ROWS[name].note if name in ROWS else ""
