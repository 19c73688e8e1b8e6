"""Votes joined with the key: arrays of numbers.

Letters: V votes of raters, Q questions. A vote answers all questions of a task.
"""

from collections.abc import Collection, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from genrec_jax.study.texts import QUESTIONS

SIDES = {"left": -1, "neither": 0, "right": 1}


@dataclasses.dataclass(frozen=True)
class Answers:
  """Votes of a study, one a rater and task.

  Attributes:
    raters: names; `rater` numbers them.
    rows: names; `first` and `second` number them.
    users: names; `user` numbers them.
    block_size: tasks of a block.
    rater: [V] int.
    user: [V] int.
    kind: [V] 'pair', 'check' or 'repeat'.
    first: [V] int, the earlier row of the two in `rows`; -1 for checks.
    second: [V] int, the later one.
    swapped: [V] bool, the first row's image stood on the right.
    side: [V, Q] int, -1 left, 0 cannot say, 1 right.
    outcome: [V, Q] int, 1 where the first row was chosen, -1 the second, 0
      cannot say; of a check 1 the user's own image.
    copies: [V, 2] bool, the first's and the second's image marked as a copy;
      of a check the own one's and the other's.
    seconds: [V] float, all questions of a task together.
    task: [V] names.
    of: [V] the task that a repeat repeats, else ''.
  """

  raters: Sequence[str]
  rows: Sequence[str]
  users: Sequence[str]
  block_size: int
  rater: np.ndarray
  user: np.ndarray
  kind: np.ndarray
  first: np.ndarray
  second: np.ndarray
  swapped: np.ndarray
  side: np.ndarray
  outcome: np.ndarray
  copies: np.ndarray
  seconds: np.ndarray
  task: np.ndarray
  of: np.ndarray

  def take(self, chosen: np.ndarray) -> "Answers":
    """Returns the votes where `chosen`, bool [V]; raters keep numbers."""
    arrays = {
      field.name: value[chosen]
      for field in dataclasses.fields(self)
      if isinstance(value := getattr(self, field.name), np.ndarray)
    }
    return dataclasses.replace(self, **arrays)

  def without(self, raters: Collection[str]) -> "Answers":
    """Returns the votes of all other raters, who are numbered anew."""
    names = [name for name in self.raters if name not in raters]
    kept = self.take(np.isin(np.asarray(self.raters, str)[self.rater], names))
    _, number = np.unique(kept.rater, return_inverse=True)  # in their order
    return dataclasses.replace(kept, raters=names, rater=number)

  @property
  def check(self) -> np.ndarray:
    """True for attention checks: bool [V]."""
    return self.kind == "check"

  @property
  def missed(self) -> np.ndarray:
    """True for checks with another than the known answer: bool [V].

    The question is whose taste an image fits; another user's is no copy.
    """
    taste = self.outcome[:, list(QUESTIONS).index("taste")]
    return self.check & ((taste != 1) | self.copies[:, 1])


def join(
  votes: Sequence[Mapping[str, Any]],
  key: Mapping[str, Mapping[str, Any]],
  rows: Sequence[str],
  users: Sequence[str],
) -> Answers:
  """Returns votes, valid and one a rater and task, as arrays.

  Args:
    votes: see `votes`; 'who' is the rater.
    key: of the study.
    rows: of the study.
    users: of the study.
  """
  entries = [key[vote["task"]] for vote in votes]
  raters = list(dict.fromkeys(vote["who"] for vote in votes))
  swapped, first, second = _rows(entries, rows)
  side = np.asarray(
    [[SIDES[vote["answers"][q]] for q in QUESTIONS] for vote in votes], int
  ).reshape(-1, len(QUESTIONS))
  marked = np.asarray(
    [["left" in v["copies"], "right" in v["copies"]] for v in votes], bool
  ).reshape(-1, 2)  # left, right
  # Blocks differ by a task or two.
  sizes = np.unique([e["block"] for e in key.values()], return_counts=True)[1]
  number_of = {name: i for i, name in enumerate(raters)}
  user_of = {name: i for i, name in enumerate(users)}
  seconds = [sum(v["milliseconds"].values()) / 1000 for v in votes]
  return Answers(
    raters=raters,
    rows=rows,
    users=users,
    block_size=int(sizes.max()),
    rater=np.asarray([number_of[vote["who"]] for vote in votes], int),
    user=np.asarray([user_of[entry["user"]] for entry in entries], int),
    kind=np.asarray([entry["kind"] for entry in entries], str),
    first=first,
    second=second,
    swapped=swapped,
    side=side,
    # Left is -1: the first row's choice is +1, wherever it stands.
    outcome=np.where(swapped[:, None], side, -side),
    copies=np.where(swapped[:, None], marked[:, ::-1], marked),
    seconds=np.asarray(seconds, float),
    task=np.asarray([vote["task"] for vote in votes], str),
    of=np.asarray([entry["of"] for entry in entries], str),
  )


def _rows(
  entries: Sequence[Mapping[str, Any]], rows: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns if a first row stood on the right, and the rows: [V] each."""
  # In a check the user's own image takes the place of the first row.
  number = {row: i for i, row in enumerate(rows)} | {"own": -2, "other": -1}
  shown = np.asarray(
    [(number[entry["left"]], number[entry["right"]]) for entry in entries], int
  ).reshape(-1, 2)  # left, right; also of no votes
  low, high = shown.min(1), shown.max(1)
  return (
    shown[:, 0] > shown[:, 1],
    np.where(low < 0, -1, low),
    np.where(low < 0, -1, high),
  )
