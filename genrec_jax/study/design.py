"""The plan of a study: who is shown which pair, in which block, on which side.

Letters: U users, K rows, R pairs of rows, B blocks. A rater answers one block.
"""

from collections.abc import Sequence
import itertools
import random
from typing import NamedTuple

PER_BLOCK = 18  # pairs of rows a block, at most; with the others about 24
CHECKS = 5  # a block; one may be missed, see `exclusions`
REPEATS = 2  # a block: 8 %
_APART = 6  # tasks between a pair and its repeat, where a block has room


class Shown(NamedTuple):
  """An image: of a row for a user, or of the user's own history."""

  row: str  # 'history': the image `place` of it
  user: int
  place: int = 0


class Check(NamedTuple):
  """An image of a user's own against one of somebody else's."""

  own: Shown
  other: Shown


class Task(NamedTuple):
  """Two images for one user, as one rater sees them."""

  kind: str  # 'pair' of rows, 'check' with a known answer, 'repeat' of a pair
  user: int
  left: Shown
  right: Shown
  known: str = ""  # of a check: the right side
  of: int = -1  # of a repeat: the pair's place in the block

  def mirrored(self) -> "Task":
    """Returns the task with left and right exchanged."""
    known = {"left": "right", "right": "left"}.get(self.known, "")
    return self._replace(left=self.right, right=self.left, known=known)


def blocks(
  rows: Sequence[str], checks: Sequence[Check], seed: int
) -> list[list[Task]]:
  """Returns 2 B blocks: each pair of rows for each user is in two of them.

  The second half mirrors the first: the same tasks with the sides exchanged, in
  another order. So raters of a block and of its mirror see each pair from both
  sides. Within a block all pairs of rows come equally often, within one, each
  row is left as often as right, within one a pair of rows, and no user comes
  twice unless there are fewer users than pairs.

  Args:
    rows: K names, two or more.
    checks: one a user, which says who the U users are.
    seed: of the order of users, blocks and tasks.
  """
  rng = random.Random(seed)
  users = list(range(len(checks)))
  rng.shuffle(users)
  pairs = list(itertools.combinations(rows, 2))  # R
  count = -(-len(users) * len(pairs) // PER_BLOCK)  # B, rounded up
  contents: list[list[Task]] = [[] for _ in range(count)]
  # A Latin square: going from a pair of rows to the next moves all users to the
  # next block, so a user is nowhere twice while R <= B.
  for r, (a, b) in enumerate(pairs):
    for i, user in enumerate(users):
      block, turn = (i + r) % count, (i // count + r) % 2
      task = Task("pair", user, Shown(a, user), Shown(b, user))
      # By turns within the block; another first turn in every second block.
      contents[block].append(task.mirrored() if (turn + block) % 2 else task)
  found = []
  for number, tasks in enumerate(contents):
    tasks = tasks + _checks(tasks, checks, rng, number)
    found.append(tasks)
  mirrors = [[task.mirrored() for task in tasks] for tasks in found]
  return [_ordered(tasks, rng) for tasks in found + mirrors]


def _checks(
  tasks: Sequence[Task],
  checks: Sequence[Check],
  rng: random.Random,
  number: int,
) -> list[Task]:
  """Returns a block's checks, of users that it does not show otherwise."""
  shown = {task.user for task in tasks}
  # Those shown otherwise come last: in a small study there may be no others.
  order = sorted(range(len(checks)), key=lambda u: (u in shown, rng.random()))
  found = []
  for i in range(min(CHECKS, len(checks))):
    user = order[i]
    own, other = checks[user]
    task = Task("check", user, own, other, known="left")
    found.append(task.mirrored() if (i + number) % 2 else task)
  return found


def _ordered(tasks: Sequence[Task], rng: random.Random) -> list[Task]:
  """Returns tasks in the order they are shown, with the repeats among them.

  A repeat has the sides exchanged: who answers by side contradicts themselves.
  """
  order = list(tasks)
  rng.shuffle(order)
  # Not the first one: nobody should fail by not having begun yet.
  first = next(i for i, task in enumerate(order) if task.kind == "pair")
  order[0], order[first] = order[first], order[0]
  early = [i for i, task in enumerate(order) if task.kind == "pair"]
  early = early[: max(REPEATS, len(order) // 2)]
  for i in sorted(rng.sample(early, min(REPEATS, len(early)))):
    repeat = order[i].mirrored()._replace(kind="repeat", of=i)
    # Behind all pairs it may repeat, so that no place before it moves.
    lowest = min(max(i + _APART, early[-1] + 1), len(order))
    order.insert(rng.randint(lowest, len(order)), repeat)
  return order
