import pytest

from genrec_jax.evals import page, page_differences


def _cell(mean, p=0.0001):
  return {
    "mean": mean,
    "low": mean - 0.05,
    "high": mean + 0.05,
    "p": p / 7,
    "p_holm": p,
  }


def _mean(mean):
  return {"mean": mean, "low": mean, "high": mean}


ROW = {
  "preference_match": _mean(0.5),
  "copy_rate": _mean(0.1),
  "text_clip": _mean(0.1),
  "diversity": _mean(0.1),
}
SUMMARY = {
  "users": 9,
  "population": "held-out users",
  "models": {"sft": ROW, "rl": ROW, "item_knn": {"preference_match": _mean(0)}},
  "differences": {
    "rl - sft": {
      "text_clip": _cell(0.2, 0.06),
      "preference_match": _cell(0.25),
      "copy_rate": _cell(-0.125, 0.034),
      "diversity": _cell(-0.1),
    },
    "rl - item_knn": {"preference_match": _cell(0.0, 1.0)},
  },
}


def test_differences_in_words():
  assert page_differences.lines(SUMMARY) == [
    "rl - sft: preference match +0.250 (+0.200 to +0.300, p < .001), better;"
    " better: copy rate -0.125; lower: diversity -0.100; not told apart: text",
    "rl - item-kNN: preference match +0.000 (-0.050 to +0.050, p = 1), not told"
    " apart",
  ]
  assert page_differences.lines({"users": 1, "models": {}}) == []


@pytest.mark.parametrize(
  ("mean", "metric", "expected"),
  [
    (0.1, "text_clip", "better"),
    (-0.1, "text_clip", "worse"),
    (-0.1, "copy_rate", "better"),
    (0.1, "copy_rate", "worse"),
    (0.1, "diversity", "higher"),
    (-0.1, "diversity", "lower"),
    (0.04, "text_clip", ""),
  ],
)
def test_words(mean, metric, expected):
  assert page_differences.word(_cell(mean), metric) == expected


def test_metrics_are_rows_and_comparisons_columns():
  found = page_differences.section(SUMMARY)
  assert found.names == ["rl - sft", "rl - item-kNN"]
  assert [row.title for row in found.rows] == [
    "text",
    "preference match",
    "copy rate",
    "diversity",
  ]
  text, match = found.rows[:2]
  assert text.cells == [(_cell(0.2, 0.06), "p = .060", ""), None]
  assert [cell.word for cell in match.cells] == ["better", ""]
  older = {"mean": 0.5, "low": 0.4, "high": 0.6}
  summary = SUMMARY | {"differences": {"rl - sft": {"text_clip": older}}}
  (cell,) = page_differences.section(summary).rows[0].cells
  assert (cell.p, cell.word) == ("", "better")
  assert page_differences.section({"users": 1, "models": {}}) is None


def test_the_page_has_them():
  text = page.page(SUMMARY, title="T", stamp="S")
  assert '<th scope="col">rl - item-kNN</th>' in text
  assert text.count('<span class="mark better">better</span>') == 2
  assert "+0.250 · p = .060</span>" in text
  assert "by Holm for the 4 metrics" in text


def test_p_in_words():
  found = [page_differences.p_in_words(p) for p in (0.0001, 0.0314, 0.9999, 1)]
  assert found == ["p < .001", "p = .031", "p = 1", "p = 1"]
