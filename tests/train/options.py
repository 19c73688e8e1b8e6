"""RL options of tests: one base, of which each changes what it needs."""

import dataclasses
from typing import Any

from genrec_jax import rewards
from genrec_jax.objectives import Objective
from genrec_jax.sampling import Sampling
from genrec_jax.train.rl_options import RLOptions

# Not divided by a group's spread: that of random rewards is so small that their
# rounding would be seen in the gradient.
_BASE = RLOptions(
  seed=3,
  microbatches=1,
  sample=Sampling(num_samples=4, guidance=2.0),
  rewards={},
  normalise="none",
  objective=Objective(
    ratio="token",
    clip_low=0.2,
    clip_high=0.28,
    kl="k3",
    kl_weight=0.1,
    aggregation="token",
  ),
  advantage="dr_grpo",
  scoring="guided",
  stop_unconditional_gradient=False,
  inner_epochs=1,
  sampler_weight_cap=0.0,
  kl_of="scored",
)


def rl_options(
  *, copy_weight: float = 1.0, kl_weight: float = 0.1, **changes: Any
) -> RLOptions:
  """Returns options with all four rewards; `changes` are fields of them."""
  base = dataclasses.replace(
    _BASE,
    rewards=rewards.from_options(
      {
        "text": {"weight": 1.0},
        "history": {"weight": 0.5, "pool": "mean", "recency_decay": 0.8},
        "future": {"weight": 1.0, "pool": "mean"},
        "copy": {"weight": copy_weight, "threshold": 0.9},
      }
    ),
    objective=dataclasses.replace(_BASE.objective, kl_weight=kl_weight),
  )
  return dataclasses.replace(base, **changes)
