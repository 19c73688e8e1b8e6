import itertools

import jax.numpy as jnp
import pytest

from genrec_jax import rewards
from genrec_jax.evals import curves
from genrec_jax.objectives import advantages


def test_what_each_reward_contributes_is_shown():
  raw = {name: jnp.array([[0.1, 0.2]]) for name in rewards.REWARDS}
  weights = dict.fromkeys(rewards.REWARDS, 1.0)
  _, metrics = advantages.combine(
    raw, weights, normalise="batch", advantage="dr_grpo"
  )
  points = {name: [(0, 0.1), (10, 0.3)] for name in metrics}
  found, _ = curves.charts(points, {"models": {}})
  titles = {chart.title for some in found.values() for chart in some}
  for name in rewards.REWARDS:
    for kind in ("contribution", "weighted mean"):
      assert f"reward: {name} {kind}" in titles


def test_curves_skip_what_was_not_finite(tmp_path):
  assert curves.read(str(tmp_path)) == {}
  (tmp_path / "metrics.jsonl").write_text(
    '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": null, "eval/x": 0.5}\n'
    '{"step": 3, "loss": 1.0}\n{"step": 4, "lo'
  )
  assert curves.read(str(tmp_path)) == {
    "loss": [(1, 2.0), (3, 1.0)],
    "eval/x": [(2, 0.5)],
  }


@pytest.mark.parametrize("values", [[1.0, 1.0], [0.0, 1e-12], [-5.0, 3e6]])
def test_curves_stay_inside_their_box(values):
  found, _ = curves.charts({"loss": list(enumerate(values))}, {"models": {}})
  for chart in itertools.chain(*found.values()):
    for pair in chart.line.split():
      x, y = map(float, pair.split(","))
      assert 0 <= x <= chart.width
      assert 0 <= y <= chart.height


def test_curves_of_a_single_step_are_left_out():
  assert curves.charts({}, {"models": {}}) == ({}, [])
  found = curves.charts({"loss": [(3, 1.0)], "odd": [(3, 1.0)]}, {"models": {}})
  assert found == ({}, ["loss = 1"])


def test_many_values_are_averaged_over_the_steps_before():
  values = [float(i % 2) for i in range(50)]
  (chart,) = _charts({"loss": list(enumerate(values))})
  assert chart.raw.split() != chart.line.split()
  assert len(chart.raw.split()) == len(chart.line.split()) == 50
  assert chart.marks == []
  middle = float(chart.line.split()[-1].split(",")[1])  # of ones and zeros
  heights = [y for y, _ in chart.grid]
  assert min(heights) + 10 < middle < max(heights) - 10
  (chart,) = _charts({"loss": list(enumerate(values[:40]))})
  assert chart.raw == ""
  assert len(chart.marks) == 40


def test_chance_and_aim_are_labelled_at_different_ends():
  row = {"text_clip": {"mean": 0.3, "low": 0.2, "high": 0.4}}
  summary = {"models": {"real_next_item": row, "random_item": row}}
  (chart,) = _charts({"eval/text_clip": [(0, 0.1), (9, 0.5)]}, summary)
  places = {label: anchor for _, label, anchor in chart.references}
  assert places == {"real": "end", "random": "start"}
  (chart,) = _charts({"loss": [(0, 0.1), (9, 0.5)]}, summary)
  assert not chart.references


def _charts(points, summary=None):
  found, _ = curves.charts(points, summary or {"models": {}})
  return list(itertools.chain(*found.values()))
