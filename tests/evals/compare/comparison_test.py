import json
import pathlib

import numpy as np
import pytest

from genrec_jax.evals import differences
from genrec_jax.evals.compare import comparison, groups, runs


def _compare(*paths, rows=(), failed=()):
  found = groups.group(runs.open_runs(paths, rows))
  return comparison.compare(found, failed=failed)


def test_groups_are_compared_with_the_first(make_run):
  found = _compare(
    make_run("a", 0.1), make_run("b", 0.3, config={"rl.advantage": "rloo"})
  )
  assert found["users"] == 60
  assert found["population"] == "held-out users"
  assert found["varied"] == ["rl.advantage"]
  assert [group["seeds"] for group in found["groups"]] == [[0], [0]]
  (cells,) = found["differences"].values()
  assert list(found["differences"]) == ["advantage=rloo - advantage=grpo"]
  cell = cells["preference_match"]
  assert cell["mean"] == pytest.approx(0.2, abs=0.01)
  assert cell["p_holm"] < 0.001
  assert cells["text_clip"]["p"] == 1
  # What both began from, and the ends of the scale.
  assert list(found["references"]) == ["sft", "real_next_item", "random_item"]
  assert found["notes"] == []


def test_one_run_each_is_the_paired_test(make_run):
  paths = [make_run("a", 0.1), make_run("b", config={"rl.advantage": "rloo"})]
  one, other = runs.open_runs(paths)
  expected = differences.paired(
    {"a": one.own, "b": other.own}, [("b", "a")], seed=0
  )["b - a"]
  assert list(_compare(*paths)["differences"].values()) == [expected]


def test_seeds_are_one_group_with_wider_intervals(make_run):
  def run(name, gain, seed, **config):
    return make_run(name, gain, config={"seed": seed} | config)

  rloo = {"rl.advantage": "rloo"}
  found = _compare(
    run("a0", 0.0, 0),
    run("a1", 0.2, 1),
    run("b0", 0.3, 0, **rloo),
    run("b1", 0.5, 1, **rloo),
  )
  first, second = found["groups"]
  assert (first["seeds"], second["seeds"]) == ([0, 1], [0, 1])
  assert first["metrics"]["preference_match"]["mean"] == pytest.approx(
    np.mean([float(i) / 100 for i in range(60)]) + 0.1, abs=0.01
  )
  (cells,) = found["differences"].values()
  cell = cells["preference_match"]
  assert cell["mean"] == pytest.approx(0.3, abs=0.01)
  # Users differ by .01, seeds by .2.
  assert cell["high"] - cell["low"] > 0.2
  alone = _compare(
    run("c0", 0.0, 2), *(group["runs"][1] for group in (second,))
  )
  assert alone["notes"] == []
  mixed = _compare(run("c1", 0.0, 3), *second["runs"])
  assert mixed["notes"] == [
    "one seed only of advantage=grpo: its intervals are over users alone"
  ]


def test_metrics_that_mean_something_else_are_left_out(make_run):
  change = {"data.history_length": 3}
  found = _compare(make_run("a"), make_run("b", config=change))
  for cells in (
    *(group["metrics"] for group in found["groups"]),
    *found["references"].values(),
    *found["differences"].values(),
  ):
    assert cells.keys() == {"text_clip", "preference_match"}
  (note,) = found["notes"]
  assert note.startswith("data.history_length differs: history_, copy_rate")


def test_what_means_nothing_is_said_first_and_once(make_run):
  change = {"data.history_length": 3}
  paths = [make_run("a"), make_run("b", config=change)]
  for path in paths:
    file = pathlib.Path(path, "summary.json")
    summary = json.loads(file.read_text())
    file.write_text(json.dumps(summary | {"warnings": ["a tiny model."]}))
  first, second = _compare(*paths)["notes"]
  assert first == "a tiny model"
  assert second.startswith("data.history_length differs")


def test_a_failed_run_is_a_row_that_says_why(make_run):
  failed = {"name": "lr=9", "values": {"lr": "9"}, "seed": 1, "reason": "why"}
  assert _compare(make_run("a"), failed=[failed])["failed"] == [failed]
