"""Shuffled histories: each user scored by samples generated for another user.

A model that makes nothing of a history does as well by these samples as by its
own. No image is generated for the comparison: users exchange the samples that
they have.
"""

from collections.abc import Sequence

import numpy as np

from genrec_jax.evals import held_out
from genrec_jax.evals.held_out import HeldOutBatch
from genrec_jax.evals.judge import Judge


def derangement(users: int, seed: int) -> np.ndarray:
  """Returns another user for each of U users: int [U].

  A random cycle through all users: nobody keeps their own samples, and each
  user's samples are used once.

  Raises:
    ValueError: fewer than two users.
  """
  if users < 2:
    raise ValueError(f"{users} users: shuffling needs two or more")
  # A cycle, not any permutation, which may leave a user in place.
  order = np.random.default_rng(seed).permutation(users)
  source = np.empty_like(order)
  source[order] = np.roll(order, 1)
  return source


def score_shuffled(
  judge: Judge,
  batches: Sequence[HeldOutBatch],
  embeds: np.ndarray,
  attributes: np.ndarray | None,
  source: np.ndarray,
) -> dict[str, np.ndarray]:
  """Returns each user's scores of the samples generated for another user.

  Args:
    judge: scores as it does for the users' own samples.
    batches: U held-out users.
    embeds: [U, G, E] CLIP embeddings of every user's own samples.
    attributes: [U, G, 5] of `held_out.read_attributes`, or None.
    source: [U] int, whose samples each user is scored by; see `derangement`.

  Returns:
    {metric: [U] float64}.
  """
  parts, start = [], 0
  for held in batches:
    users = source[start : start + held.count]
    start += held.count
    users = held_out.fill(users, held.size)  # [P], as the batch is filled
    theirs = None if attributes is None else attributes[users]  # [P, G, 5]
    parts.append(judge.score(held, embeds[users], theirs))
  return held_out.concatenate(parts)
