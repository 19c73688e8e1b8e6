"""A recommender's best unseen item for each user, and the rank of the true one.

Users are taken some at a time: the scores of a large catalogue for all of them
at once would take gigabytes.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from genrec_jax.evals import ranking_scores, retrieval
from genrec_jax.evals.recommenders.interactions import Scorer


class Recommended(NamedTuple):
  """What a recommender has to say of U users."""

  best: np.ndarray  # [U] int, number of the best item that is not seen
  ranks: np.ndarray  # [U] float64, see `retrieval.ranks`


def recommend(
  score: Scorer,
  histories: Sequence[np.ndarray],
  seen: Sequence[np.ndarray],
  target: np.ndarray,
  *,
  batch_size: int = 128,
  done: Callable[[int], None] = lambda users: None,
) -> Recommended:
  """Ranks the catalogue for each user.

  Args:
    score: a fitted recommender.
    histories: what it is shown of U users, [n] int each, oldest first.
    seen: items that it may not recommend, [m] int each.
    target: [U] int, the true next item of each.
    batch_size: users whose scores are in memory at once.
    done: called with the number of users, each time that some are done.
  """
  best, ranks = [], []
  for start in range(0, len(target), batch_size):
    part = slice(start, start + batch_size)
    scores = np.asarray(score(histories[part]), np.float64)  # [P, I]
    mask = ranking_scores.seen_mask(seen[part], scores.shape[1])
    ranks.append(retrieval.ranks(scores, mask, target[part]))
    # Of equal ones the first: the same on every machine.
    best.append(np.argmax(np.where(mask, -np.inf, scores), axis=1))
    done(len(mask))
  return Recommended(np.concatenate(best), np.concatenate(ranks))
