from genrec_jax.evals import table as table_lib
from genrec_jax.evals.metrics import METRICS


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
  assert "\n  rl - base: better: text +0.300; worse: copy rate +0.200\n" in text
  assert (
    "\n  rl - shuffled: worse: copy rate +0.300; not told apart: text\n" in text
  )
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
  assert any(line.startswith("real next item ") for line in lines)
  base = next(line for line in lines if line.startswith("base"))
  assert base.split() == ["base", "0.200", "0.100*", "-"]


def test_table_fits_seven_columns_in_a_hundred_characters():
  row = dict.fromkeys(METRICS, _cell(-0.05))
  summary = {"users": 10**4, "models": {"sft": row}, "shuffled": {"sft": row}}
  table = table_lib.table(summary)
  body = table.splitlines()[:-2]
  assert max(map(len, body)) <= 100
