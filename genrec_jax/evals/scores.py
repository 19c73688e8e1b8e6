"""Scores of generated images, per user.

Everything here is numpy on the host and takes unit CLIP embeddings or true
attributes, never a model. A score that is undefined for a user (no history, one
sample only) is NaN, and the summary leaves that user out.

Letters: P users, G samples, N history items, F future items, E CLIP width.
"""

import numpy as np

from genrec_jax.data import world
from genrec_jax.targets import Targets


def clip_scores(
  samples: np.ndarray, targets: Targets, copy_threshold: float
) -> dict[str, np.ndarray]:
  """Scores samples by cosine similarity in CLIP space.

  Args:
    samples: [P, G, E] unit embeddings.
    targets: embeddings of history, future and title, as numpy arrays.
    copy_threshold: a sample this similar to a history image is a copy.

  Returns:
    {metric: [P] float64}, means over a user's samples.
  """
  mask = targets.history_mask  # [P, N]
  # Cosines: all embeddings are unit vectors.
  to_history = np.einsum("pge,pne->pgn", samples, targets.history)
  nearest = np.where(mask[:, None], to_history, -np.inf).max(-1)  # [P, G]
  known = mask.any(-1)  # [P], False = the user has no history
  nearest = np.where(known[:, None], nearest, np.nan)
  copies = np.where(known[:, None], nearest >= copy_threshold, np.nan)  # [P, G]
  to_future = np.einsum("pge,pfe->pgf", samples, targets.future)
  to_text = np.einsum("pge,pe->pg", samples, targets.text)  # [P, G]
  return {
    "history_clip_mean": _masked_mean(to_history, mask).mean(-1),
    "history_clip_max": nearest.mean(-1),
    "future_clip_mean": _masked_mean(to_future, targets.future_mask).mean(-1),
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
  """Scores samples by the attributes that they truly show.

  Args:
    shown: [P, G, 5] int, attributes read from the samples.
    history: [P, N, 5] int, attributes of the user's own history.
    history_mask: [P, N] bool, True = a real item.
    wants: [P, 3] int, what the user wants now.

  Returns:
    {metric: [P] float64}, means over a user's samples.
  """
  equal = np.all(shown[:, :, None] == history[:, None], axis=-1)  # [P, G, N]
  copies = np.any(equal & history_mask[:, None], axis=-1)  # [P, G]
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
  # The squared length of a sum is the sum of all pairs: G, not G^2 products.
  total = samples.astype(np.float64).sum(1)  # [P, E]
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
  others = images.sum(0)[None] - images  # [P, E], the sum of the others
  return 1 - np.sum(images * others, -1) / (len(images) - 1)


def _masked_mean(values, mask):
  """Returns means over the last axis where mask [P, N]: [P, G, N] -> [P, G].

  Where, not a product with the mask: a padded slot may hold NaN.
  """
  count = mask.sum(-1, dtype=np.float64)[:, None]
  total = np.where(mask[:, None], values, 0).sum(-1, dtype=np.float64)
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)
