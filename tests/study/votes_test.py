import copy
import json

import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.study import votes


def vote(**more):
  return {
    "id": "s1-t1",
    "study": "abc",
    "task": "t1",
    "session": "s1",
    "prolific_pid": "",
    "study_id": "",
    "session_id": "",
    "answers": {"taste": "left", "next": "neither", "made": "right"},
    "copies": ["left"],
    "milliseconds": {"taste": 900, "next": 0, "made": 1},
  } | more


def problem(value):
  return votes.problem(value, "abc", {"t1", "t2"})


def test_a_vote_is_one():
  assert problem(vote()) == ""
  assert problem(vote(prolific_pid="5f", copies=["left", "right"])) == ""


@pytest.mark.parametrize(
  ("value", "said"),
  [
    (None, "broken line"),
    ([], "not a vote"),
    ("x", "not a vote"),
    ({}, "not a vote"),
    (vote(more=1), "not a vote"),
    (vote(study="abd"), "another study"),
    (vote(task="t3", id="s1-t3"), "no task"),
    (vote(id="s1-t2"), "bad id"),
    (vote(session="../x", id="../x-t1"), "bad names"),
    (vote(session="s" * 65, id=f"{'s' * 65}-t1"), "bad names"),
    (vote(session=None), "bad names"),
    (vote(task=["t1"]), "bad names"),
    (vote(prolific_pid="<b>"), "bad names"),
    (vote(prolific_pid=7), "bad names"),
    (vote(answers={"taste": "left"}), "each question"),
    (vote(answers=["left"] * 3), "each question"),
    (vote(answers=dict.fromkeys(("taste", "next", "made"), "up")), "bad answ"),
    (vote(answers={q: [] for q in ("taste", "next", "made")}), "bad answ"),
    (vote(copies=["up"]), "bad marks"),
    (vote(copies=["right", "left"]), "bad marks"),
    (vote(copies="left"), "bad marks"),
    (vote(milliseconds=dict.fromkeys(("taste", "next", "made"), -1)), "times"),
    (vote(milliseconds=dict.fromkeys(("taste", "next", "made"), 1.5)), "times"),
    (vote(milliseconds=dict.fromkeys(("taste", "next", "made"), True)), "tim"),
    (vote(milliseconds=dict.fromkeys(("taste", "next", "made"), 1e30)), "tim"),
  ],
)
def test_all_else_is_not(value, said):
  assert said in problem(value)


def test_who_votes_is_a_participant_or_a_session():
  assert votes.who(vote()) == "s1"
  assert votes.who(vote(prolific_pid="p")) == "p"


def test_files_and_folders_are_read(tmp_path):
  first, second = vote(), vote(task="t2", id="s1-t2")
  lines = f"{json.dumps(first)}\n\n{{broken\n"
  (tmp_path / "votes.jsonl").write_text(lines)
  saved = {"study": "abc", "votes": [second]}
  (tmp_path / "votes-1.json").write_text(json.dumps(saved))
  (tmp_path / "truth.json").write_text("{}")  # of `simulate`
  (tmp_path / "votes-2.json").write_text("[]")
  (tmp_path / "notes.txt").write_text("x")
  assert list(votes.read(str(tmp_path))) == [second, None, first, None]
  assert list(votes.read(str(tmp_path / "votes.jsonl"))) == [first, None]


def test_no_votes_are_said(tmp_path):
  for path in (tmp_path, tmp_path / "nothing.jsonl"):
    with pytest.raises(UserError, match="expected a file of votes"):
      list(votes.read(str(path)))


def test_a_vote_is_only_looked_at():
  given = vote()
  before = copy.deepcopy(given)
  problem(given)
  assert given == before
