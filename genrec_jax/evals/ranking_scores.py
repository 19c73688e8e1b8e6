"""Scores that rank: items of the catalogue, and other users, by an encoder.

Numpy on unit embeddings; cosines are float32, as the embeddings are, and all
that is made of them float64. Letters: U users, G samples, I items, F future
items, E the width of the encoder.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from genrec_jax.evals import retrieval
from genrec_jax.targets import Targets

AT = 10  # of HR@10 and NDCG@10
OTHERS = 99  # users that a user is told from
_CHUNK = 2**24  # cosines at a time, 64 MiB


class Nearest(NamedTuple):
  """What the catalogue says of the samples of U users."""

  ranks: np.ndarray  # [U], of the real next item by its nearest sample
  # [U], share of samples that are copies of trained items; None: not known
  copies: np.ndarray | None


def in_catalogue(
  samples: np.ndarray,
  catalogue: np.ndarray,
  *,
  seen: Sequence[np.ndarray],
  target: np.ndarray,
  trained: np.ndarray,
  copy_threshold: float | None,
) -> Nearest:
  """Compares samples with every item of a catalogue.

  Args:
    samples: [U, G, E] unit embeddings.
    catalogue: [I, E] of all items.
    seen: items that each of U users has met, [m] int each.
    target: [U] int, the real next item.
    trained: [I] bool, True = the item is in the training data.
    copy_threshold: a sample this similar to an item is a copy of it; None:
      not known.
  """
  ranks, nearest = [], []
  users = max(_CHUNK // (samples.shape[1] * len(catalogue)), 1)
  for start in range(0, len(samples), users):
    part = slice(start, start + users)
    cosines = samples[part] @ catalogue.T  # [u, G, I]
    nearest.append(np.where(trained, cosines, -np.inf).max(-1))  # [u, G]
    mask = seen_mask(seen[part], len(catalogue))
    # A user is shown several images; one that hits is enough.
    ranks.append(retrieval.ranks(cosines.max(1), mask, target[part]))
  copies = None
  if copy_threshold is not None:
    copies = (np.concatenate(nearest) >= copy_threshold).mean(-1)  # [U]
  return Nearest(np.concatenate(ranks), copies)


def seen_mask(seen: Sequence[np.ndarray], items: int) -> np.ndarray:
  """Returns [U, I] bool, True = the user has met the item."""
  mask = np.zeros((len(seen), items), bool)
  for row, numbers in enumerate(seen):
    mask[row, numbers] = True
  return mask


def retrieval_scores(
  ranks: np.ndarray, candidates: np.ndarray, judge: str
) -> dict[str, np.ndarray]:
  """Returns HR@10, NDCG@10, MRR and lift of each user: {metric: [U]}.

  Lift is HR@10 over its expectation for a ranking at random, 10 of the user's
  candidates.

  Args:
    ranks: [U] of `retrieval.ranks`.
    candidates: [U], number of items that were ranked.
    judge: whose columns these are.
  """
  hits = retrieval.hit_rate(ranks, AT)
  return {
    f"hit_rate_{judge}": hits,
    f"ndcg_{judge}": retrieval.ndcg(ranks, AT),
    f"mrr_{judge}": retrieval.mrr(ranks),
    f"lift_{judge}": hits / np.minimum(AT / candidates, 1),
  }


def candidates(
  seen: Sequence[np.ndarray], target: np.ndarray, items: int
) -> np.ndarray:
  """Returns how many items are ranked for each user: [U] float64.

  All that were not seen, and the real next one in any case.
  """
  mask = seen_mask(seen, items)
  mask[np.arange(len(mask)), target] = False
  return items - mask.sum(1, dtype=np.float64)


def discrimination(
  samples: np.ndarray, targets: Targets, *, seed: int
) -> np.ndarray:
  """Returns each user's AUC of their own future against other users': [U].

  The share of 99 other users whose future is less near to a sample than the
  user's own is, ties counting half, averaged over samples; near is the mean
  cosine over the horizon. .5 is chance, and NaN a single user's.

  Args:
    samples: [U, G, E] unit embeddings.
    targets: of U users.
    seed: of the choice of others, the same for all rows of a table.
  """
  count = len(samples)
  if count < 2:
    return np.full(count, np.nan)
  mask = targets.future_mask[..., None]  # [U, F, 1]
  future = np.where(mask, targets.future, 0).sum(1) / mask.sum(1)  # [U, E]
  own = np.einsum("uge,ue->ug", samples, future)  # [U, G]
  rng = np.random.default_rng(seed)
  # Users so many places further on: all are others, and each as often as any.
  steps = rng.permutation(np.arange(1, count))[:OTHERS]
  total = np.zeros(own.shape)
  for step in steps:
    other = np.einsum("uge,ue->ug", samples, np.roll(future, -step, 0))
    total += (own > other) + (own == other) / 2
  return total.mean(-1) / len(steps)
