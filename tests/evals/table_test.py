import json

import numpy as np
import pytest

from genrec_jax.evals import table as table_lib


def _cell(mean):
  return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}


def _apart(mean):
  return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}


SUMMARY = {
  "users": 5,
  "models": {
    "base": {"text_clip": _cell(0.2), "copy_rate": _cell(0.1)},
    "rl": {
      "text_clip": _cell(0.5),
      "copy_rate": _cell(0.3),
      "diversity": _cell(0.9),
    },
    "real_next_item": {"text_clip": _cell(0.9), "copy_rate": _cell(0.0)},
    "random_item": {"text_clip": _cell(0.1), "copy_rate": _cell(0.0)},
    "copy_last": {"text_clip": _cell(0.3), "copy_rate": _cell(1.0)},
  },
  "shuffled": {"rl": {"text_clip": _cell(0.6), "copy_rate": _cell(0.0)}},
  "differences": {
    "rl - base": {"text_clip": _apart(0.3), "copy_rate": _apart(0.2)},
    "rl - rl shuffled": {"text_clip": _cell(-0.1), "copy_rate": _apart(0.3)},
  },
}


def test_rows_are_models_then_shuffled_then_baselines():
  assert [(group, name) for group, name, _ in table_lib.rows(SUMMARY)] == [
    ("model", "base"),
    ("model", "rl"),
    ("shuffled", "rl"),
    ("baseline", "real_next_item"),
    ("baseline", "random_item"),
    ("baseline", "copy_last"),
  ]


def test_columns_are_those_that_exist_in_a_fixed_order():
  assert table_lib.columns(SUMMARY) == ["text_clip", "copy_rate", "diversity"]


def test_best_heeds_the_direction_and_skips_baselines():
  assert table_lib.best(SUMMARY) == {"text_clip": "rl", "copy_rate": "base"}
  alone = SUMMARY | {"models": {"rl": SUMMARY["models"]["rl"]}}
  assert table_lib.best(alone) == {}


def test_ties_and_noise_are_not_marked():
  """Only a paired interval that leaves 0 out makes a model the best."""
  rng = np.random.default_rng(0)
  base = rng.uniform(size=200)
  per_user = {
    "base": {
      "text_clip": base,
      "future_clip_mean": base,
      "copy_rate": 0 * base,
    },
    "rl": {
      "text_clip": base + rng.normal(0, 0.1, 200),  # noise
      # Every user gains, far less than users differ.
      "future_clip_mean": base + rng.uniform(0, 0.01, 200),
      "copy_rate": 0 * base,  # a tie
    },
    "real_next_item": {"text_clip": base},
    "random_item": {"text_clip": base},
  }
  summary = table_lib.summarise(per_user, seed=0, population="held-out users")
  alone = summary["models"]["rl"]["future_clip_mean"]
  assert alone["low"] < base.mean() < alone["high"]
  assert table_lib.best(summary) == {"future_clip_mean": "rl"}
  # With a third model that ties with it nobody is best.
  per_user = {"sft": per_user["rl"], **per_user}
  summary = table_lib.summarise(per_user, seed=0, population="held-out users")
  assert table_lib.best(summary) == {}
  assert "*" not in "".join(table_lib.table(summary).splitlines()[:-2])


def test_differences_of_a_summary():
  scores = {
    name: {"text_clip": np.full(4, value)}
    for name, value in (
      ("base", 0.0),
      ("sft", 0.25),
      ("rl", 0.75),
      ("sft shuffled", 0.125),
      ("rl shuffled", 0.5),
      ("real_next_item", 1.0),
      ("random_item", 0.0625),
    )
  }
  found = table_lib.summarise(scores, seed=0, population="x")
  assert found["users"] == 4
  assert list(found["models"]) == [
    "base",
    "sft",
    "rl",
    "real_next_item",
    "random_item",
  ]
  assert list(found["shuffled"]) == ["sft", "rl"]
  means = {k: v["text_clip"]["mean"] for k, v in found["differences"].items()}
  assert means == {
    "sft - base": 0.25,
    "rl - sft": 0.5,
    "rl - base": 0.75,
    "sft - sft shuffled": 0.125,
    "rl - rl shuffled": 0.25,
    "base - random_item": -0.0625,
    "sft - random_item": 0.1875,
    "rl - random_item": 0.6875,
    "real_next_item - random_item": 0.9375,
  }
  assert table_lib.difference(found, "base", "rl", "text_clip") == {
    "mean": -0.75,
    "low": -0.75,
    "high": -0.75,
  }
  assert table_lib.difference(found, "base", "nobody", "text_clip") is None


def test_table_says_differences_verdicts_and_who_was_evaluated():
  extra = {
    "population": "users' held-out last items",
    "verdicts": ["rl is below random_item in text"],
    "warnings": ["nothing means anything"],
  }
  text = table_lib.table(SUMMARY | extra)
  assert "Means over 5 users' held-out last items;" in text
  assert "note: rl is below random_item in text" in text
  assert "warning: nothing means anything" in text
  lines = [line.split() for line in text.splitlines()]
  assert ["rl", "-", "base", "+0.300", "+0.200", "-"] in lines
  assert ["rl", "-", "shuffled", "-0.100", "+0.300", "-"] in lines
  assert "held-out" not in table_lib.table(SUMMARY)  # of whom nothing is known


def test_table_has_means_marks_and_intervals():
  lines = table_lib.table(SUMMARY).splitlines()
  assert lines[1].split() == ["5", "users", "text", "rate", "diversity"]
  row = next(i for i, line in enumerate(lines) if line.startswith("rl "))
  assert lines[row].split() == ["rl", "0.500*", "0.300", "0.900"]
  assert lines[row + 1].split() == [
    ".400",
    ".600",
    ".200",
    ".400",
    ".800",
    "1.00",
  ]
  assert any(line.startswith("rl shuffled") for line in lines)
  base = next(line for line in lines if line.startswith("base"))
  assert base.split() == ["base", "0.200", "0.100*", "-"]


def test_table_fits_seven_columns_in_a_hundred_characters():
  row = dict.fromkeys(table_lib.METRICS, _cell(-0.05))
  summary = {"users": 10**4, "models": {"sft": row}, "shuffled": {"sft": row}}
  table = table_lib.table(summary)
  body = table.splitlines()[:-2]
  assert max(map(len, body)) <= 100


def test_write_summary_leaves_one_whole_file(tmp_path):
  table_lib.write_summary(str(tmp_path), SUMMARY)
  assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
  assert json.loads((tmp_path / "summary.json").read_text()) == SUMMARY


def test_write_summary_refuses_nan_and_keeps_the_old_file(tmp_path):
  table_lib.write_summary(str(tmp_path), SUMMARY)
  broken = {"users": 1, "models": {"rl": {"text_clip": _cell(float("nan"))}}}
  with pytest.raises(ValueError, match="not JSON compliant"):
    table_lib.write_summary(str(tmp_path), broken)
  assert json.loads((tmp_path / "summary.json").read_text()) == SUMMARY


def test_curves_skip_what_was_not_finite(tmp_path):
  assert table_lib.curves(str(tmp_path)) == {}
  (tmp_path / "metrics.jsonl").write_text(
    '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": null, "eval/x": 0.5}\n'
    '{"step": 3, "loss": 1.0}\n{"step": 4, "lo'
  )
  assert table_lib.curves(str(tmp_path)) == {
    "loss": [(1, 2.0), (3, 1.0)],
    "eval/x": [(2, 0.5)],
  }
