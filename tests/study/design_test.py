from collections import Counter
import itertools

from hypothesis import given
from hypothesis import strategies as st
import pytest

from genrec_jax.study import design
from genrec_jax.study.design import Check, Shown

ROWS = ("a", "b", "c", "d")


def checks(users):
  return [
    Check(Shown("history", u), Shown("history", (u + 1) % users))
    for u in range(users)
  ]


def real(block):
  return [task for task in block if task.kind == "pair"]


def row_pair(task):
  return tuple(sorted((task.left.row, task.right.row)))


@pytest.fixture(scope="module")
def blocks():
  return design.blocks(ROWS, checks(60), seed=0)


def test_each_pair_is_seen_once_from_either_side(blocks):
  sides = Counter(
    (task.user, task.left.row, task.right.row)
    for block in blocks
    for task in real(block)
  )
  assert set(sides.values()) == {1}
  assert sides.keys() == {
    (user, *rows)
    for user in range(60)
    for rows in itertools.permutations(ROWS, 2)
  }


def test_blocks_are_alike(blocks):
  assert len(blocks) == 2 * 20
  for block in blocks:
    kinds = Counter(task.kind for task in block)
    assert kinds == {"pair": 18, "check": 5, "repeat": 2}
    assert set(Counter(map(row_pair, real(block))).values()) == {3}
    users = [task.user for task in block if task.kind != "repeat"]
    assert len(set(users)) == len(users)
    for row in ROWS:  # nine showings each: five on one side at most, or six
      left = sum(task.left.row == row for task in real(block))
      assert 3 <= left <= 6


def test_sides_are_balanced_between_two_rows(blocks):
  for a, b in itertools.combinations(ROWS, 2):
    left = sum(
      task.left.row == a
      for block in blocks[:20]
      for task in real(block)
      if row_pair(task) == (a, b)
    )
    assert left == 30


def test_a_mirror_has_the_same_tasks_with_the_sides_exchanged(blocks):
  for block, mirror in zip(blocks[:20], blocks[20:], strict=True):
    for kind in ("pair", "check"):
      ours = {task for task in block if task.kind == kind}
      theirs = {task.mirrored() for task in mirror if task.kind == kind}
      assert ours == theirs
    assert [t.user for t in block] != [t.user for t in mirror]


def test_checks_have_known_answers_on_both_sides(blocks):
  sides = Counter()
  for block in blocks:
    for task in block:
      if task.kind == "check":
        known = task.left if task.known == "left" else task.right
        assert known.user == task.user
        sides[task.known] += 1
      else:
        assert task.known == ""
    assert 2 <= sum(task.known == "left" for task in block) <= 3
  assert sides["left"] == sides["right"]


def test_repeats_exchange_the_sides_of_a_pair_some_time_before(blocks):
  for block in blocks:
    for place, task in enumerate(block):
      if task.kind == "repeat":
        first = block[task.of]
        assert first.kind == "pair"
        assert (first.left, first.right) == (task.right, task.left)
        assert place - task.of >= 6
    assert block[0].kind == "pair"


def test_the_seed_is_all_that_matters():
  made = [design.blocks(ROWS, checks(7), seed=s) for s in (3, 3, 4)]
  assert made[0] == made[1] != made[2]


@given(st.integers(2, 40), st.integers(2, 6), st.integers(0, 9))
def test_any_size(users, rows, seed):
  names = [f"row{i}" for i in range(rows)]
  blocks = design.blocks(names, checks(users), seed)
  half = blocks[: len(blocks) // 2]
  found = Counter(
    (task.user, row_pair(task)) for block in half for task in real(block)
  )
  assert len(found) == users * rows * (rows - 1) // 2
  assert set(found.values()) == {1}
  sizes = [len(real(block)) for block in half]
  assert max(sizes) - min(sizes) <= rows * (rows - 1) // 2
  for block in blocks:
    for task in block:
      if task.kind == "repeat":
        first = block[task.of]
        assert (first.left, first.right) == (task.right, task.left)
