"""How good generated images are, per user, and how sure we can be of it.

Everything here is numpy on the host and takes unit CLIP embeddings or true
attributes, never a model. A score that is undefined for a user (no history, one
sample only) is NaN, and the summary leaves that user out.

Letters: P users, G samples, N history items, F future items, E CLIP width.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from genrec_jax.data import world


class Metric(NamedTuple):
  """How a metric is shown and read."""

  title: str
  better: int  # 1: higher is better, -1: lower is, 0: neither end is
  meaning: str


METRICS: dict[str, Metric] = {
  "history_clip_mean": Metric(
    "history mean",
    1,
    "CLIP similarity of a sample to the user's history images, averaged over "
    "them: does it fit the user's taste as a whole?",
  ),
  "history_clip_max": Metric(
    "history max",
    1,
    "CLIP similarity to the nearest history image. Copying wins this one, so "
    "read it beside the copy rate.",
  ),
  "future_clip_mean": Metric(
    "future mean",
    1,
    "CLIP similarity to the items the user really went on to: does it point "
    "where the user goes next?",
  ),
  "text_clip": Metric(
    "text",
    1,
    "CLIP similarity to the title of the real next item, which the model never "
    "sees.",
  ),
  "preference_match": Metric(
    "preference match",
    1,
    "Share of what the user wants now (shape, colour, texture) that the "
    "picture shows, by the exact attribute reader. Known only in the synthetic "
    "world; the random item is at chance.",
  ),
  "copy_rate": Metric(
    "copy rate",
    -1,
    "Share of samples that repeat a history item: all attributes equal where "
    "the truth is known, else CLIP similarity above the copy threshold.",
  ),
  "diversity": Metric(
    "diversity",
    0,
    "Mean of 1 - cosine between a user's own samples. For rows of one image "
    "a user, such as the real next item, between users instead. Near 0 the "
    "samples are all alike; as high as the random item, they ignore the user.",
  ),
}


def clip_scores(
  samples: np.ndarray,
  history: np.ndarray,
  history_mask: np.ndarray,
  future: np.ndarray,
  future_mask: np.ndarray,
  text: np.ndarray,
  copy_threshold: float,
) -> dict[str, np.ndarray]:
  """Scores samples by cosine similarity in CLIP space.

  Args:
    samples: [P, G, E] unit embeddings.
    history: [P, N, E] of the user's own history.
    history_mask: [P, N] bool, True = a real item.
    future: [P, F, E] of the items that really came next.
    future_mask: [P, F] bool.
    text: [P, E] of the real next item's title.
    copy_threshold: a sample this similar to a history image is a copy.

  Returns:
    {metric: [P] float64}, means over a user's samples.
  """
  to_history = np.einsum("pge,pne->pgn", samples, history)
  masked = np.where(history_mask[:, None], to_history, -np.inf)
  nearest = masked.max(-1)  # [P, G]
  known = history_mask.any(-1)
  nearest = np.where(known[:, None], nearest, np.nan)
  copies = np.where(known[:, None], nearest >= copy_threshold, np.nan)
  to_future = np.einsum("pge,pfe->pgf", samples, future)
  to_text = np.einsum("pge,pe->pg", samples, text)
  return {
    "history_clip_mean": _masked_mean(to_history, history_mask).mean(-1),
    "history_clip_max": nearest.mean(-1),
    "future_clip_mean": _masked_mean(to_future, future_mask).mean(-1),
    "text_clip": to_text.astype(np.float64).mean(-1),
    "copy_rate": copies.mean(-1),
    "diversity": diversity(samples),
  }


def truth_scores(
  shown: np.ndarray,
  history: np.ndarray,
  history_mask: np.ndarray,
  wants: np.ndarray,
) -> dict[str, np.ndarray]:
  """Scores samples by what they truly show.

  Args:
    shown: [P, G, 5] int, attributes read from the samples.
    history: [P, N, 5] int, attributes of the user's own history.
    history_mask: [P, N] bool, True = a real item.
    wants: [P, 3] int, what the user wants now.

  Returns:
    {metric: [P] float64}, means over a user's samples.
  """
  equal = np.all(shown[:, :, None] == history[:, None], axis=-1)  # [P, G, N]
  copies = np.any(equal & history_mask[:, None], axis=-1)
  match = world.preference_match(
    shown, np.broadcast_to(wants[:, None], (*shown.shape[:2], wants.shape[-1]))
  )
  return {
    "preference_match": match.astype(np.float64).mean(-1),
    "copy_rate": copies.astype(np.float64).mean(-1),
  }


def diversity(samples: np.ndarray) -> np.ndarray:
  """Returns 1 - the mean cosine of pairs of samples: [P, G, E] -> [P].

  NaN for G = 1, which has no pair.
  """
  size = samples.shape[1]
  if size < 2:
    return np.full(len(samples), np.nan)
  total = samples.astype(np.float64).sum(1)
  squares = np.sum(np.square(samples, dtype=np.float64), axis=(1, 2))
  pairs = np.sum(total**2, -1) - squares  # every ordered pair once
  return 1 - pairs / (size * (size - 1))


def spread(images: np.ndarray) -> np.ndarray:
  """Returns 1 - the mean cosine to the other users' images: [P, E] -> [P].

  What stands for diversity where there is one image per user; NaN for P = 1.
  """
  if len(images) < 2:
    return np.full(len(images), np.nan)
  images = images.astype(np.float64)
  others = images.sum(0)[None] - images
  return 1 - np.sum(images * others, -1) / (len(images) - 1)


def bootstrap(
  scores: Mapping[str, np.ndarray],
  *,
  seed: int,
  resamples: int = 2000,
  confidence: float = 0.95,
) -> dict[str, dict[str, float]]:
  """Averages over users, with percentile bootstrap intervals over users.

  The same seed draws the same users, so rows of a table share their resamples.

  Args:
    scores: {metric: [P] float}, NaN where a user has none.
    seed: of the resampling.
    resamples: draws of P users with replacement.
    confidence: share of the draws' means between low and high.

  Returns:
    {metric: {'mean', 'low', 'high'}} without the metrics no user has.
  """
  values = {
    name: np.asarray(v, np.float64)
    for name, v in scores.items()
    if not np.all(np.isnan(v))
  }
  if not values:
    return {}
  table = np.stack(list(values.values()), -1)  # [P, metrics]
  present = ~np.isnan(table)
  table = np.where(present, table, 0.0)
  users = len(table)
  rng = np.random.default_rng(seed)
  counts = rng.multinomial(users, np.full(users, 1 / users), size=resamples)
  weights = counts @ present
  # A draw without a single user who has the metric says nothing about it.
  means = np.where(weights > 0, counts @ table, np.nan) / np.maximum(weights, 1)
  tail = 50 * (1 - confidence)
  low, high = np.nanpercentile(means, [tail, 100 - tail], axis=0)
  mean = table.sum(0) / present.sum(0)
  return {
    name: {"mean": float(m), "low": float(a), "high": float(b)}
    for name, m, a, b in zip(values, mean, low, high, strict=True)
  }


def paired(
  scores: Mapping[str, np.ndarray],
  others: Mapping[str, np.ndarray],
  *,
  seed: int,
) -> dict[str, dict[str, float]]:
  """Returns mean differences, `scores` - `others`, of the same users.

  The interval is a 95 % percentile bootstrap over users, of each user's own
  difference; see `bootstrap`. Users who lack either score are left out.

  Args:
    scores: {metric: [U] float}, NaN where a user has none.
    others: the same of another row, user by user.
    seed: of the resampling.

  Returns:
    {metric: {'mean', 'low', 'high'}} of the metrics that both have.
  """
  both = [name for name in scores if name in others]
  return bootstrap(
    {name: np.asarray(scores[name]) - others[name] for name in both}, seed=seed
  )


def _masked_mean(values, mask):
  """Means over the last axis where mask [P, N]: [P, G, N] -> [P, G]."""
  count = mask.sum(-1, dtype=np.float64)[:, None]
  total = np.where(mask[:, None], values, 0).sum(-1, dtype=np.float64)
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)
