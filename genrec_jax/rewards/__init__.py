"""Rewards of generated images, one small function each, and which encoder each
reads; may import targets.
"""

from genrec_jax.rewards.cosines import FUTURE_POOLS, HISTORY_POOLS
from genrec_jax.rewards.external import Describe, load, probe
from genrec_jax.rewards.eyes import Question, mean_reading, read_titles
from genrec_jax.rewards.table import (
  OF_TITLES,
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
from genrec_jax.rewards.views import (
  CLIP,
  EYES,
  HOST,
  NO_ENCODERS,
  QUALITY,
  WRITTEN,
  View,
  look,
)
from genrec_jax.rewards.written import Beside, Translator, embed_titles

__all__ = [
  "CLIP",
  "EYES",
  "FUTURE_POOLS",
  "HISTORY_POOLS",
  "HOST",
  "NO_ENCODERS",
  "OF_TITLES",
  "QUALITY",
  "REWARDS",
  "WITHOUT_GRADIENT",
  "WRITTEN",
  "Beside",
  "Describe",
  "Question",
  "Reward",
  "Translator",
  "View",
  "embed_titles",
  "from_options",
  "kept_groups",
  "load",
  "look",
  "mean_reading",
  "probe",
  "problems",
  "read_titles",
  "score",
  "score_views",
  "sections_of",
  "statistics",
  "weights_at",
]
