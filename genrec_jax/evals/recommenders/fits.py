"""The recommenders of `genrec_jax.rows`, fitted to what may be known."""

from collections.abc import Callable, Iterable
import functools
from typing import NamedTuple

import numpy as np

from genrec_jax.evals.held_out import Rows
from genrec_jax.evals.recommenders import neighbours, sasrec_training
from genrec_jax.evals.recommenders.interactions import Interactions, Scorer
from genrec_jax.evals.recommenders.ranking import Recommended, recommend
from genrec_jax.runtime import progress


class Known(NamedTuple):
  """What recommenders are fitted to; nothing of it is of a hidden item."""

  interactions: Interactions  # of the training data
  embeds: np.ndarray  # [I, E] unit embeddings of the items' images
  length: int  # N, items of the histories that are shown, at most
  seed: int


# By the names of `rows.RECOMMENDERS`.
FITS: dict[str, Callable[[Known], Scorer]] = {
  "most_popular": lambda known: neighbours.most_popular(known.interactions),
  "item_knn": lambda known: neighbours.item_knn(known.interactions),
  "content_knn": lambda known: neighbours.content_knn(known.embeds),
  "sasrec": lambda known: sasrec_training.sasrec(
    known.interactions,
    sasrec_training.Options(length=known.length),
    seed=known.seed,
  ),
}


def recommend_all(
  names: Iterable[str], known: Known, users: Rows
) -> dict[str, Recommended]:
  """Returns what each recommender has to say of U users, fitted one by one.

  They see of a user what the generator sees, the history of the prompt, and may
  recommend nothing that the user has met.

  Args:
    names: of `FITS`.
    known: what they are fitted to.
    users: U users' items; the target is ranked and never shown to them.
  """
  found = {}
  for name in names:
    # One is in memory at a time.
    score = FITS[name](known)
    # Of its own: a recommender that trains has another line before.
    tally = progress.Tally(len(users.target), "users")
    found[name] = recommend(
      score,
      users.history,
      users.seen,
      users.target,
      done=functools.partial(tally.add, f"recommending by {name}"),
    )
    tally.clear()
  return found
