"""Rewards of generated images, one small function each, and which encoder each
reads; may import targets.
"""

from genrec_jax.rewards.cosines import FUTURE_POOLS, HISTORY_POOLS
from genrec_jax.rewards.table import (
  CLIP,
  QUALITY,
  REWARDS,
  Reward,
  from_options,
  problems,
  score,
  score_views,
  sections_of,
  statistics,
)
from genrec_jax.rewards.views import View, look

__all__ = [
  "CLIP",
  "FUTURE_POOLS",
  "HISTORY_POOLS",
  "QUALITY",
  "REWARDS",
  "Reward",
  "View",
  "from_options",
  "look",
  "problems",
  "score",
  "score_views",
  "sections_of",
  "statistics",
]
