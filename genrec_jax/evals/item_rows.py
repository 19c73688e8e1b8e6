"""Rows that show items: of recommenders, oracles and baselines."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from genrec_jax.data import world
from genrec_jax.evals import baselines, oracles
from genrec_jax.evals.held_out import Users
from genrec_jax.evals.recommenders import fits
from genrec_jax.evals.recommenders.interactions import Interactions
from genrec_jax.evals.scoring import Items
from genrec_jax.hf.encoders import CLIP_NAME, QUALITY_PREFIX


class ItemRows(NamedTuple):
  """Which items rows show U users, and how they rank the true next one."""

  numbers: dict[str, np.ndarray]  # row -> [U, 1] or [U, G] int
  ranks: dict[str, np.ndarray]  # of rows with a ranking of their own, [U]


def choose(
  users: Users,
  items: Items,
  *,
  recommenders: Iterable[str],
  interactions: Interactions | None,
  num_samples: int,
  seed: int,
) -> ItemRows:
  """Returns what all rows show that show items.

  Oracles are among them where the truth is known.

  Args:
    users: U held-out users.
    items: the catalogue.
    recommenders: names of `rows.RECOMMENDERS`.
    interactions: what these learn from; None: there are none.
    num_samples: G, of rows with several images a user.
    seed: of all that is sampled or trained.
  """
  assert users.rows is not None
  numbers = baselines.items(
    users.rows, len(items.trained), num_samples=num_samples, seed=seed
  )
  ranks = {}
  if interactions is not None:
    known = fits.Known(
      interactions,
      items.embeds[judge_or_clip(items)],
      length=max(map(len, users.rows.history)),
      seed=seed,
    )
    found = fits.recommend_all(recommenders, known, users.rows)
    for name, recommended in found.items():
      numbers[name] = recommended.best[:, None]
      ranks[name] = recommended.ranks
  # Items of the whole world are numbered as the world numbers them.
  if users.truth is not None and len(items.trained) == world.NUM_ITEMS:
    mask = np.asarray(users.targets[CLIP_NAME].history_mask)  # [U, N]
    numbers |= oracles.items(
      users.truth.history, mask, num_samples=num_samples, seed=seed
    )
    ranks["oracle_best_guess"] = oracles.ranks(
      users.truth.history, mask, users.rows
    )
  return ItemRows(numbers, ranks)


def judge_or_clip(items: Items) -> str:
  """Returns the encoder by which items are alike: a judge, if there is one."""
  return next(
    (
      name
      for name in items.embeds
      if name != CLIP_NAME and not name.startswith(QUALITY_PREFIX)
    ),
    CLIP_NAME,
  )
