"""Sampling: images and answers from a generator, and the probability of given
ones; may import models.
"""

from genrec_jax.sampling.distribution import Sampling
from genrec_jax.sampling.guidance import guide
from genrec_jax.sampling.images import (
  decode_images,
  generate_images,
  rollout_params,
  sample_images,
)
from genrec_jax.sampling.items import (
  ANSWERS,
  Titles,
  sample_items,
  title_tokens,
)
from genrec_jax.sampling.scoring import (
  Extra,
  map_logits,
  score_images,
  score_titles,
)
from genrec_jax.sampling.text import Answers, answer

__all__ = [
  "ANSWERS",
  "Answers",
  "Extra",
  "Sampling",
  "Titles",
  "answer",
  "decode_images",
  "generate_images",
  "guide",
  "map_logits",
  "rollout_params",
  "sample_images",
  "sample_items",
  "score_images",
  "score_titles",
  "title_tokens",
]
