import csv
import json

import numpy as np
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.study import analysis, report, simulation
from genrec_jax.study.texts import QUESTIONS


def votes_of(study, rater, block, choose, seconds=2.0, pid=""):
  """Returns a rater's votes; `choose` gives a side and marks from the key."""
  found = []
  for task in study.tasks["blocks"][block]:
    side, copies = choose(study.key[task["id"]])
    found.append(
      {
        "id": f"{rater}-{task['id']}",
        "study": study.id,
        "task": task["id"],
        "session": rater,
        "prolific_pid": pid,
        "study_id": "",
        "session_id": "",
        "answers": dict.fromkeys(QUESTIONS, side),
        "copies": copies,
        "milliseconds": dict.fromkeys(QUESTIONS, int(1000 * seconds)),
      }
    )
  return found


def prefers_rl(entry):
  """Answers checks right, and rl wherever it is shown; else cannot say."""
  if entry["kind"] == "check":
    return entry["known"], [entry["known"]]
  for side in ("left", "right"):
    if entry[side] == "rl":
      return side, []
  return "neither", []


def run(study, votes, **kwargs):
  kept, dropped = analysis.sort_votes(study, votes)
  answers = analysis.open_answers(study, kept)
  return analysis.analyse(study, answers, resamples=200, **kwargs), dropped


def test_by_hand(study):
  """Eight raters, of four blocks and their mirrors, who all prefer rl."""
  votes = [
    vote
    for block in range(8)
    for vote in votes_of(study, f"r{block}", block, prefers_rl)
  ]
  found, dropped = run(study, votes)
  assert not dropped
  assert found["raters"]["kept"] == found["raters"]["all"] == 8
  assert found["raters"]["excluded"] == {}
  assert found["votes"] == {"all": 200, "kept": 200, "pairs": 144}
  assert found["pairs"] == {"all": 72, "with_three_raters": 0}
  for question in QUESTIONS:
    cells = found["win_rates"][question]
    assert len(cells) == 6
    for cell in cells:
      rl = cell["first"] == "rl"
      assert cell["wins"] == (24 if rl else 0)
      assert cell["losses"] == 0
      assert cell["ties"] == (0 if rl else 24)
      assert cell["rate"] == (1.0 if rl else 0.5)
      assert cell["low"] < cell["rate"] <= cell["high"]
    scores = found["scores"][question]["rows"]
    others = [scores[row]["score"] for row in found["rows"][1:]]
    assert scores["rl"]["score"] > 2
    np.testing.assert_allclose(others, others[0], atol=1e-6)
    assert found["alpha"][question] == 1  # as the mirrors agree
    assert found["consistency"][question] == {"same": 1.0, "of": 16}
    # Rl stands left as often as right.
    assert found["position"][question]["left"] == 0.5
  assert {cell["share"] for cell in found["copies"].values()} == {0.0}
  assert {cell["shown"] for cell in found["copies"].values()} == {72}
  assert found["checks"] == {"missed": 0.0, "copies_marked": 1.0}
  assert found["seconds"] == {"pair": 6.0, "session": 150.0}


def marks_sft(entry):
  side, copies = prefers_rl(entry)
  if entry["kind"] == "pair":
    copies = [side for side in ("left", "right") if entry[side] == "sft"]
  return side, copies


def test_marks_belong_to_rows_whichever_side_they_are_on(study):
  votes = [
    vote
    for block in range(4)
    for vote in votes_of(study, f"r{block}", block, marks_sft)
  ]
  found, _ = run(study, votes)
  shares = {row: cell["share"] for row, cell in found["copies"].items()}
  assert shares == {"rl": 0, "sft": 1, "content_knn": 0, "real_next_item": 0}


@pytest.mark.parametrize(
  ("choose", "seconds", "reason"),
  [
    (lambda entry: ("left", []), 2, "one side: 100% of answers left"),
    (lambda entry: ("right", []), 2, "one side: 100% of answers right"),
    (lambda entry: ("neither", []), 2, "attention: 5 of 5 checks missed"),
    (
      lambda entry: (prefers_rl(entry)[0], ["left", "right"]),
      2,
      "attention: 5 of 5 checks missed",
    ),
    (prefers_rl, 0.5, "too fast: 1.5 s a pair (median)"),
  ],
)
def test_the_careless_are_left_out(choose, seconds, reason, study):
  good = votes_of(study, "good", 0, prefers_rl)
  bad = votes_of(study, "bad", 1, choose, seconds)
  found, _ = run(study, good + bad)
  assert list(found["raters"]["excluded"]) == ["bad"]
  assert reason in found["raters"]["excluded"]["bad"]
  assert found["votes"]["kept"] == 25


def test_one_check_may_be_missed_and_not_two(study):
  for missed, out in ((1, False), (2, True)):
    left = [missed]

    def choose(entry, left=left):
      if entry["kind"] == "check" and left[0]:
        left[0] -= 1
        return "neither", []
      return prefers_rl(entry)

    good = votes_of(study, "good", 0, prefers_rl)
    found, _ = run(study, good + votes_of(study, "other", 1, choose))
    assert ("other" in found["raters"]["excluded"]) == out


def test_who_did_not_finish_is_left_out(study):
  good = votes_of(study, "good", 0, prefers_rl)
  half = votes_of(study, "half", 1, prefers_rl)[:12]
  found, _ = run(study, good + half)
  why = found["raters"]["excluded"]["half"]
  assert why[0].startswith("incomplete: 48%")


def test_nothing_is_dropped_in_silence(study):
  good = votes_of(study, "good", 0, prefers_rl, pid="p1")
  again = votes_of(study, "later", 0, prefers_rl, pid="p1")[:3]
  other = [{**good[0], "study": "x", "id": "y"}]
  kept, dropped = analysis.sort_votes(
    study, [*good, *good[:2], *again, *other, None, 7]
  )
  assert len(kept) == len(good)
  assert dropped == {
    "the same vote again": 2,
    "the same rater on the same task again": 3,
    "of another study, or its rules were changed since": 1,
    "a broken line": 1,
    "not a vote": 1,
  }


def test_no_votes_at_all_is_an_error_that_says_what_there_was(study):
  with pytest.raises(UserError, match="1 votes: a broken line"):
    analysis.run(study, [None])
  bad = votes_of(study, "bad", 0, lambda entry: ("left", []))
  with pytest.raises(UserError, match=r"exclude all of 1 raters:\n  bad: att"):
    analysis.run(study, bad)


def test_files_of_an_analysis(study, tmp_path):
  votes = simulation.votes(
    study,
    simulation.evenly(study.record["rows"]),
    raters=8,
    seed=0,
    always_left=1,
  )
  found, answers = analysis.run(study, [*votes, None])
  report.write(str(tmp_path / "out"), found, answers)
  text = (tmp_path / "out/analysis.json").read_text()
  assert json.loads(text)["raters"]["all"] == 9
  assert "NaN" not in text
  lines = list(csv.DictReader((tmp_path / "out/votes.csv").open()))
  assert len(lines) == len(votes)
  by_task = {vote["task"]: vote for vote in votes}
  for line in lines:
    entry = study.key[line["task"]]
    raters = [v for v in votes if v["task"] == line["task"]]
    assert line["user"] == entry["user"]
    names = {"own": "own image", "other": "other's image"}
    left, right = (
      names.get(entry[side], entry[side]) for side in ("left", "right")
    )
    assert {line["first"], line["second"]} == {left, right}
    assert line["on_the_left"] == left
    if len(raters) == 1:
      side = by_task[line["task"]]["answers"]["taste"]
      chosen = {"left": left, "right": right, "neither": "cannot say"}[side]
      assert line["taste"] == chosen
  raters = list(csv.DictReader((tmp_path / "out/raters.csv").open()))
  [left] = [r for r in raters if r["participant"] == "simulated0008"]
  assert "one side" in left["left_out"]
  assert left["left_share"] == "1.00"
  # The votes that may be published name no participants.
  assert "simulated" not in (tmp_path / "out/votes.csv").read_text()
  page = (tmp_path / "out/analysis.html").read_text()
  assert "simulated0008" in page
  assert "1 votes: a broken line" in page
  table = report.table(found)
  assert "left out simulated0008" in table
  assert "dropped: 1 votes: a broken line" in table
