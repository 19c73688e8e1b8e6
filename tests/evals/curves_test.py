import jax.numpy as jnp

from genrec_jax import rewards
from genrec_jax.evals import curves


def test_what_each_reward_contributes_is_shown():
  raw = {name: jnp.array([[0.1, 0.2]]) for name in rewards.NAMES}
  weights = dict.fromkeys(rewards.NAMES, 1.0)
  _, metrics = rewards.advantages(
    raw, weights, normalise="batch", advantage="dr_grpo"
  )
  points = {name: [(0, 0.1), (10, 0.3)] for name in metrics}
  page = curves.curves_html(points, {"models": {}})
  for name in rewards.NAMES:
    for kind in ("contribution", "weighted mean"):
      assert f"reward: {name} {kind}" in page
