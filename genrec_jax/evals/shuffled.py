"""Shuffled histories: each user scored by samples generated for another user.

A model that makes nothing of a history does as well by these samples as by its
own. No image is generated for the comparison: users exchange the samples that
they have.
"""

import numpy as np


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
