import pytest

from genrec_jax.evals import page, page_frontier


def _cell(mean):
  return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}


def _point(temperature, diversity, alignment):
  return {
    "temperature": temperature,
    "diversity": _cell(diversity),
    "alignment": _cell(alignment),
  }


def _gap(diversity, mean):
  return {"diversity": diversity, **_cell(mean)}


FRONTIER = {
  "alignment": "preference_match",
  "diversity": "diversity",
  "curves": {
    "sft": [_point(0.5, 0.1, 0.7), _point(1.5, 0.3, 0.5)],
    "rl": [_point(0.5, 0.2, 0.8), _point(1.5, 0.35, 0.6)],
  },
  "differences": {"rl - sft": [_gap(0.2, 0.2), _gap(0.3, 0.1)]},
}
SUMMARY = {"users": 9, "models": {}, "frontier": FRONTIER}


@pytest.mark.parametrize(
  ("means", "expected"),
  [
    ((0.2, 0.1), "better throughout"),
    ((-0.2, -0.1), "worse throughout"),
    ((0.02, 0.03), "not told apart"),
    ((0.2, 0.03), "better in part, never worse"),
    ((-0.2, 0.03), "worse in part, never better"),
    ((-0.2, 0.3), "better in part, worse in part"),
  ],
)
def test_verdicts_hold_at_all_corners(means, expected):
  gaps = [_gap(0.2, means[0]), _gap(0.3, means[1])]
  found = FRONTIER | {"differences": {"rl - sft": gaps}}
  (line,) = page_frontier.lines({"frontier": found})
  assert line.startswith("rl - sft at equal diversity: preference match ")
  assert line.endswith(f"; {expected}")


def test_the_ends_are_said():
  assert page_frontier.lines(SUMMARY) == [
    "rl - sft at equal diversity: preference match +0.100 (+0.050 to +0.150) at"
    " 0.30 to +0.200 (+0.150 to +0.250) at 0.20; better throughout"
  ]
  apart = FRONTIER | {"differences": {"rl - sft": []}}
  (line,) = page_frontier.lines({"frontier": apart})
  assert "none that both reach" in line
  assert page_frontier.lines({}) == []


def test_higher_is_higher_on_the_chart():
  chart = page_frontier.section(SUMMARY, {"rl": "blue"})
  assert [curve.name for curve in chart.curves] == ["sft", "rl"]
  (first, last), (above, _) = (curve.dots for curve in chart.curves)
  assert first.x < last.x
  assert first.y < last.y  # pixels grow downwards, and alignment falls
  assert above.y < first.y
  assert first.across[0] < first.x < first.across[1]
  assert first.upright[0] > first.y > first.upright[1]
  for dot in (first, last, above):
    assert chart.left <= dot.x <= chart.right
    assert chart.top <= dot.y <= chart.bottom
  assert [curve.colour for curve in chart.curves] == ["var(--ink)", "blue"]
  assert page_frontier.section({}, {}) is None


def test_the_page_has_the_chart():
  text = page.page(SUMMARY, title="T", stamp="S")
  assert "At equal diversity" in text
  assert ">rl 1.5</text>" in text
  assert "better throughout." in text
  assert "At equal diversity" not in page.page(
    {"users": 9, "models": {}}, title="T", stamp="S"
  )
