"""Rewards of generated images, one small function each, and which encoder each
reads; may import targets.
"""

from genrec_jax.rewards.cosines import FUTURE_POOLS, HISTORY_POOLS
from genrec_jax.rewards.external import Describe, load, probe
from genrec_jax.rewards.table import (
  REWARDS,
  WITHOUT_GRADIENT,
  Reward,
  from_options,
  kept_groups,
  problems,
  score,
  score_views,
  sections_of,
  statistics,
  weights_at,
)
from genrec_jax.rewards.views import CLIP, HOST, QUALITY, View, look

__all__ = [
  "CLIP",
  "FUTURE_POOLS",
  "HISTORY_POOLS",
  "HOST",
  "QUALITY",
  "REWARDS",
  "WITHOUT_GRADIENT",
  "Describe",
  "Reward",
  "View",
  "from_options",
  "kept_groups",
  "load",
  "look",
  "probe",
  "problems",
  "score",
  "score_views",
  "sections_of",
  "statistics",
  "weights_at",
]
