import jax.numpy as jnp

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
  page = curves.curves_html(points, {"models": {}})
  for name in rewards.REWARDS:
    for kind in ("contribution", "weighted mean"):
      assert f"reward: {name} {kind}" in page


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
