from genrec_jax.evals import metrics
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

JUDGED = SUMMARY | {
  "models": {
    name: row
    | {
      "future_eye_mean": row["text_clip"],
      "hit_rate_eye": _cell(1.0 if name == "real_next_item" else 0.5),
    }
    if "text_clip" in row
    else row
    for name, row in SUMMARY["models"].items()
  },
  "sets": {
    "base": {"kid_eye": _cell(0.75), "frechet_eye": {"mean": 0.5, "images": 9}},
    "rl": {"kid_eye": _cell(0.25), "frechet_eye": {"mean": 0.25, "images": 9}},
    "rl shuffled": {"kid_eye": _cell(0.5)},
  },
}


def test_table_says_differences_verdicts_and_who_was_evaluated():
  extra = {
    "population": "users' held-out last items",
    "verdicts": ["rl is below random item in text"],
    "warnings": ["nothing means anything"],
  }
  text = table_lib.table(SUMMARY | extra)
  assert "Means over 5 users' held-out last items;" in text
  assert "note: rl is below random item in text" in text
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


def test_a_judge_has_a_table_of_its_own():
  lines = table_lib.table(JUDGED).splitlines()
  start = lines.index("By eye, which rewards nothing; more in the report:")
  assert lines[start + 1].split() == ["future"]
  assert lines[start + 2].split() == ["5", "users", "mean", "HR@10", "KID"]
  rows = [line.split() for line in lines[start:]]
  assert ["rl", "0.500", "0.500", "0.250"] in rows
  assert ["rl", "shuffled", "-", "-", "0.500"] in rows
  assert ["real", "next", "item", "0.900", "1.000", "-"] in rows
  # The main one has none of them.
  assert "HR@10" not in "".join(lines[:start])


def test_shuffled_rows_are_explained_where_there_are_some():
  assert "shuffled: images made" in table_lib.table(SUMMARY)
  assert "shuffled" not in table_lib.table(
    SUMMARY | {"shuffled": {}, "differences": {}}
  )


def test_tables_fit_in_a_hundred_characters():
  templates = [*metrics._LIKENESS, *metrics._RANKING]
  judge = [template.format("eye") for template in templates]
  row = dict.fromkeys([*metrics.METRICS, *judge], _cell(-0.05))
  summary = {"users": 10**4, "models": {"sft": row}, "shuffled": {"sft": row}}
  lines = table_lib.table(summary).splitlines()
  body = [line for line in lines if "shuffled:" not in line]
  assert max(map(len, body)) <= 100
