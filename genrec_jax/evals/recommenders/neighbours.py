"""Recommenders that count or compare, and train nothing.

Letters: P users to recommend to, I items, J items that any of them has had, E
the width of embeddings.
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse

from genrec_jax.evals.recommenders.interactions import Interactions, Scorer


def most_popular(interactions: Interactions) -> Scorer:
  """Scores every item by how many events it has, the same for all users."""
  counts = interactions.counts.astype(np.float64)  # [I]
  return lambda histories: np.tile(counts, (len(histories), 1))


def item_knn(interactions: Interactions, *, shrink: float = 10.0) -> Scorer:
  """Scores an item by its similarity to a user's items, summed over them.

  The similarity of two items is the shrunk cosine of the sets of users who have
  had them, c / (sqrt(n m) + shrink), of c users who have had both and n and m
  who have had each (Sarwar et al., WWW 2001; shrinkage as in Bell and Koren,
  ICDM 2007).

  Args:
    interactions: to count in.
    shrink: takes from the similarity of items of which few users are known.
  """
  counts = interactions.counts  # [I]
  shape = (len(interactions.starts) - 1, interactions.num_items)
  pairs = (interactions.users, interactions.items)
  # [V, I], 1 where a user has had an item; by column, as some are picked.
  had = scipy.sparse.csc_matrix((np.ones(len(pairs[0])), pairs), shape)
  had.data[:] = 1  # an item that came twice counts once

  def score(histories: Sequence[np.ndarray]) -> np.ndarray:
    # Only rows of similarities that these users need: all would be I x I.
    items, which = np.unique(np.concatenate(histories), return_inverse=True)
    users = np.repeat(np.arange(len(histories)), [len(h) for h in histories])
    both = np.asarray((had[:, items].T @ had).todense())  # [J, I] users
    # 1 for items that nobody has had, whose similarity is 0: [J, I].
    norms = np.sqrt(np.maximum(np.outer(counts[items], counts), 1))
    similarity = both / (norms + shrink)
    similarity[np.arange(len(items)), items] = 0  # to itself says nothing
    mine = np.zeros((len(histories), len(items)))  # [P, J]
    mine[users, which] = 1
    return mine @ similarity

  return score


def content_knn(embeds: np.ndarray, *, decay: float = 0.8) -> Scorer:
  """Scores an item by how much it looks like what a user has had.

  Args:
    embeds: unit embeddings of all items' images, [I, E].
    decay: weight of a history item per newer one, as in the reward's recency
      pooling; wants drift.
  """

  def score(histories: Sequence[np.ndarray]) -> np.ndarray:
    means = np.stack(  # [P, E]
      [_recent(len(h), decay) @ embeds[h].astype(np.float64) for h in histories]
    )
    return means @ embeds.T

  return score


def _recent(length: int, decay: float) -> np.ndarray:
  """Returns the weights of a history, oldest first, that sum to 1: [n]."""
  weights = decay ** np.arange(length)[::-1]
  return weights / weights.sum()
