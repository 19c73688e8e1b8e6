"""Retrieval: at which rank among a catalogue's items the true next one stands.

Full ranking, never against sampled negatives (Krichene and Rendle, KDD 2020:
with these, methods change places). Numpy, float64. Letters: U users, I items.
"""

import numpy as np


def ranks(
  scores: np.ndarray, seen: np.ndarray, target: np.ndarray
) -> np.ndarray:
  """Returns the rank of each user's true next item, 1 is best: [U] float64.

  A user's seen items are left out, for nobody would show them again; the target
  never is, though people do repeat themselves. The other items of the horizon
  are ranked as all others are. Items of equal score share the mean of their
  ranks, so that a scorer to whom all items are alike is worth no more than
  chance.

  Args:
    scores: [U, I], higher is better; NaN is refused.
    seen: [U, I] bool, True = the user has met the item.
    target: [U] int, the true next item.

  Raises:
    ValueError: a score is NaN, which has no place in an order.
  """
  scores = np.asarray(scores, np.float64)
  if np.isnan(scores).any():
    raise ValueError("scores: expected numbers, found NaN")
  own = np.take_along_axis(scores, target[:, None], axis=1)  # [U, 1]
  rivals = ~seen
  np.put_along_axis(rivals, target[:, None], False, axis=1)
  above = np.sum((scores > own) & rivals, axis=1)  # [U]
  level = np.sum((scores == own) & rivals, axis=1)
  return 1 + above + level / 2


def hit_rate(ranks: np.ndarray, k: int) -> np.ndarray:
  """Returns HR@k: 1.0 where the target is among the first k, else 0.0."""
  return (ranks <= k).astype(np.float64)


def ndcg(ranks: np.ndarray, k: int) -> np.ndarray:
  """Returns NDCG@k of one relevant item, 1 / log2(1 + rank), 0 beyond k.

  The ideal ranking has 1 / log2(2) = 1, so nothing is divided by. Jarvelin and
  Kekalainen, TOIS 2002.
  """
  return np.where(ranks > k, 0.0, 1 / np.log2(1 + ranks))


def mrr(ranks: np.ndarray) -> np.ndarray:
  """Returns the reciprocal rank, whose mean over users is the MRR."""
  return 1 / ranks
