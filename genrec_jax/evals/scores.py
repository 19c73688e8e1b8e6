"""Scores of generated images, per user.

Everything here is numpy on the host and takes unit embeddings or true
attributes, never a model. A score that is undefined for a user (no history, one
sample only) is NaN, and the summary leaves that user out.

Letters: P users, G samples, N history items, F future items, E the width of an
encoder.
"""

import numpy as np

from genrec_jax.data import world
from genrec_jax.evals.held_out import Truth
from genrec_jax.hf.encoders import CLIP_NAME
from genrec_jax.targets import Targets


def similarity_scores(
  samples: np.ndarray,
  targets: Targets,
  copy_threshold: float | None,
  encoder: str = CLIP_NAME,
) -> dict[str, np.ndarray]:
  """Scores samples by cosine similarity in the space of an encoder.

  Args:
    samples: [P, G, E] unit embeddings.
    targets: embeddings of history, future and title, as numpy arrays.
    copy_threshold: a sample this similar to a history image is a copy; None:
      not known, and no copy rate.
    encoder: its name, which is part of the metrics' names.

  Returns:
    {metric: [P] float64}, means over a user's samples.
  """
  mask = targets.history_mask  # [P, N]
  # Cosines: all embeddings are unit vectors.
  to_history = np.einsum("pge,pne->pgn", samples, targets.history)
  nearest = np.where(mask[:, None], to_history, -np.inf).max(-1)  # [P, G]
  known = mask.any(-1)  # [P], False = the user has no history
  nearest = np.where(known[:, None], nearest, np.nan)
  to_future = np.einsum("pge,pfe->pgf", samples, targets.future)
  own = of_encoder(encoder)
  found = {
    f"history_{encoder}_mean": _masked_mean(to_history, mask).mean(-1),
    f"history_{encoder}_max": nearest.mean(-1),
    f"future_{encoder}_mean": _masked_mean(to_future, targets.future_mask).mean(
      -1
    ),
    f"future_{encoder}_next": _masked_mean(
      to_future[..., :1], targets.future_mask[:, :1]
    ).mean(-1),
    f"diversity{own}": diversity(samples),
  }
  if copy_threshold is not None:
    copies = np.where(known[:, None], nearest >= copy_threshold, np.nan)
    found[f"copy_rate{own}"] = copies.mean(-1)
  if targets.text is not None:  # without a text tower: no opinion of titles
    to_text = np.einsum("pge,pe->pg", samples, targets.text)  # [P, G]
    found[f"text_{encoder}"] = to_text.astype(np.float64).mean(-1)
  return found


def of_encoder(encoder: str) -> str:
  """Returns what names of metrics end with: '' for CLIP's, '_NAME' for others.

  CLIP's were there before there were judges.
  """
  return "" if encoder == CLIP_NAME else f"_{encoder}"


def truth_scores(
  shown: np.ndarray,
  truth: Truth,
  history_mask: np.ndarray,
  future_mask: np.ndarray,
) -> dict[str, np.ndarray]:
  """Scores samples by the attributes that they truly show.

  Args:
    shown: [P, G, 5] int, attributes read from the samples.
    truth: of the P users.
    history_mask: [P, N] bool, True = a real item.
    future_mask: [P, F] bool, the same.

  Returns:
    {metric: [P] float64}, means over a user's samples.
  """
  equal = shown[:, :, None] == truth.history[:, None]  # [P, G, N, 5]
  copies = np.any(equal.all(-1) & history_mask[:, None], axis=-1)  # [P, G]
  wants = np.broadcast_to(truth.wants[:, None], (*shown.shape[:2], 3))
  match = world.preference_match(shown, wants)  # [P, G]
  ahead = (shown[:, :, None] == truth.future[:, None]).mean(-1)  # [P, G, F]
  return {
    "preference_match": match.astype(np.float64).mean(-1),
    "copy_rate": copies.astype(np.float64).mean(-1),
    "future_match": _masked_mean(ahead, future_mask).mean(-1),
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


def spread(samples: np.ndarray) -> np.ndarray:
  """Returns 1 - the mean cosine to other users' samples: [P, G, E] -> [P].

  Also what stands for diversity where there is one image per user; NaN for
  P = 1.
  """
  if len(samples) < 2:
    return np.full(len(samples), np.nan)
  # The mean cosine of all pairs of two users is that of their means.
  means = samples.mean(1, dtype=np.float64)  # [P, E]
  others = means.sum(0)[None] - means  # [P, E], the sum of the others
  return 1 - np.sum(means * others, -1) / (len(samples) - 1)


def _masked_mean(values, mask):
  """Returns means over the last axis where mask [P, N]: [P, G, N] -> [P, G].

  Where, not a product with the mask: a padded slot may hold NaN.
  """
  count = mask.sum(-1, dtype=np.float64)[:, None]
  total = np.where(mask[:, None], values, 0).sum(-1, dtype=np.float64)
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)
