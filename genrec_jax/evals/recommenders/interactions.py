"""What recommenders learn from: the training parts of users' histories.

Letters: V users to learn from, E events of theirs, I items of the catalogue, P
users to recommend to.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from genrec_jax.data.index import Index

# Histories of P users, [n] int each, oldest first -> scores float [P, I], the
# higher the better. Seen items are scored, too; see `ranking`.
Scorer = Callable[[Sequence[np.ndarray]], np.ndarray]


class Interactions(NamedTuple):
  """Items of the users that may be learned from, one user after another."""

  starts: np.ndarray  # [V + 1] int64, each user's first event, and the end
  items: np.ndarray  # [E] int, numbers in the catalogue, oldest first
  num_items: int  # I

  @property
  def users(self) -> np.ndarray:
    """The user of each event: [E] int."""
    return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

  @property
  def counts(self) -> np.ndarray:
    """The number of events of each item: [I] int."""
    return np.bincount(self.items, minlength=self.num_items)


def training_interactions(index: Index) -> Interactions:
  """Returns what the generator could be trained on, and nothing else.

  That is every user's history up to the end of its training part: of a held-out
  user nothing, of any other neither validation nor test items.
  """
  lengths = index.lengths_of(slice(None))  # [U], all users of the data set
  kept = np.minimum(index.splits_of(slice(None)).train_end, lengths)  # [U]
  # Of each event its position in its user's history: [all events].
  position = np.arange(len(index.item_rows))
  position -= np.repeat(index.history_starts[:-1], lengths)
  return Interactions(
    starts=np.concatenate([[0], np.cumsum(kept)]).astype(np.int64),
    items=index.item_rows[position < np.repeat(kept, lengths)],
    num_items=len(index.title_starts) - 1,
  )


def of_histories(
  histories: Sequence[np.ndarray], num_items: int
) -> Interactions:
  """Returns the interactions of some histories, [n] int each."""
  lengths = [len(history) for history in histories]
  return Interactions(
    starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    items=np.concatenate([np.zeros(0, np.int64), *histories]).astype(np.int64),
    num_items=num_items,
  )
