import json

import pytest

from genrec_jax.evals import report


def _cell(mean):
  return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}


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
}


def test_rows_are_models_then_shuffled_then_baselines():
  assert [(group, name) for group, name, _ in report.rows(SUMMARY)] == [
    ("model", "base"),
    ("model", "rl"),
    ("shuffled", "rl"),
    ("baseline", "real_next_item"),
    ("baseline", "random_item"),
    ("baseline", "copy_last"),
  ]


def test_columns_are_those_that_exist_in_a_fixed_order():
  assert report.columns(SUMMARY) == ["text_clip", "copy_rate", "diversity"]


def test_best_heeds_the_direction_and_skips_baselines():
  assert report.best(SUMMARY) == {"text_clip": "rl", "copy_rate": "base"}
  alone = SUMMARY | {"models": {"rl": SUMMARY["models"]["rl"]}}
  assert report.best(alone) == {}


def test_table_has_means_marks_and_intervals():
  lines = report.table(SUMMARY).splitlines()
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
  row = dict.fromkeys(report.METRICS, _cell(-0.05))
  summary = {"users": 10**4, "models": {"sft": row}, "shuffled": {"sft": row}}
  table = report.table(summary)
  body = table.splitlines()[:-1]
  assert max(map(len, body)) <= 100


def test_write_summary_leaves_one_whole_file(tmp_path):
  report.write_summary(str(tmp_path), SUMMARY)
  assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
  assert json.loads((tmp_path / "summary.json").read_text()) == SUMMARY


def test_write_summary_refuses_nan_and_keeps_the_old_file(tmp_path):
  report.write_summary(str(tmp_path), SUMMARY)
  broken = {"users": 1, "models": {"rl": {"text_clip": _cell(float("nan"))}}}
  with pytest.raises(ValueError, match="not JSON compliant"):
    report.write_summary(str(tmp_path), broken)
  assert json.loads((tmp_path / "summary.json").read_text()) == SUMMARY


def test_curves_skip_what_was_not_finite(tmp_path):
  assert report.curves(str(tmp_path)) == {}
  (tmp_path / "metrics.jsonl").write_text(
    '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": null, "eval/x": 0.5}\n'
    '{"step": 3, "loss": 1.0}\n{"step": 4, "lo'
  )
  assert report.curves(str(tmp_path)) == {
    "loss": [(1, 2.0), (3, 1.0)],
    "eval/x": [(2, 0.5)],
  }
