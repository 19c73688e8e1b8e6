"""Cosine rewards: generated images and a user's items in an encoder's space.

A masked item never counts. A prompt without any real item has reward 0, equal
for all its samples, so that it takes no part in the gradient. Everything is
float32 and constant to the objectives. Letters: P prompts, G samples per
prompt, N history items, F future items, M items of either, E the width of the
encoder's space.
"""

import jax
import jax.numpy as jnp

from genrec_jax.core.errors import UserError
from genrec_jax.groups import at_least_float32
from genrec_jax.targets import Targets

HISTORY_POOLS = ("mean", "max", "recency")
FUTURE_POOLS = ("mean", "max", "first")


def text(images: jax.Array, targets: Targets) -> jax.Array:
  """Returns the cosine with the next item's title: [P, G].

  Args:
    images: [P, G, E] unit embeddings of the samples, any float type.
    targets: of the P prompts.
  """
  return _cosines(images, targets.text[:, None])[..., 0]


def history(
  images: jax.Array, targets: Targets, *, pool: str, recency_decay: float
) -> jax.Array:
  """Returns the cosines with the user's history, pooled: [P, G].

  Args:
    images: [P, G, E] unit embeddings of the samples, any float type.
    targets: of the P prompts.
    pool: 'mean'; 'max'; 'recency', weighted by recency_decay ** (number of
      newer items).
    recency_decay: in (0, 1]; 1 is the mean. Used by 'recency' only.

  Raises:
    UserError: an unknown pool or a decay out of its range.
  """
  _check_pool(pool, HISTORY_POOLS)
  if not 0 < recency_decay <= 1:
    raise UserError(f"recency_decay={recency_decay}: expected in (0, 1]")
  mask = targets.history_mask  # [P, N]
  cosines = _cosines(images, targets.history)  # [P, G, N]
  if pool == "max":
    return _or_zero(_max(cosines, mask), mask)
  # The newest item counts 1, the one before it recency_decay, and so on.
  decay = recency_decay if pool == "recency" else 1.0
  weights = jnp.where(mask, decay ** _ages(mask).astype(jnp.float32), 0.0)
  return _mean(cosines, weights)


def future(images: jax.Array, targets: Targets, *, pool: str) -> jax.Array:
  """Returns the cosines with the user's next items, pooled: [P, G].

  Args:
    images: [P, G, E] unit embeddings of the samples, any float type.
    targets: of the P prompts.
    pool: 'mean'; 'max'; 'first', the very next one.

  Raises:
    UserError: an unknown pool.
  """
  _check_pool(pool, FUTURE_POOLS)
  mask = targets.future_mask  # [P, F]
  cosines = _cosines(images, targets.future)  # [P, G, F]
  if pool == "max":
    return _or_zero(_max(cosines, mask), mask)
  counted = _first(mask) if pool == "first" else mask
  return _mean(cosines, counted.astype(jnp.float32))


def copy(images: jax.Array, targets: Targets, *, threshold: float) -> jax.Array:
  """Returns minus the excess of the nearest history item's cosine: [P, G].

  0 below the threshold. The history reward alone is won by copying: the aim is
  to generate, not to repeat.

  Args:
    images: [P, G, E] unit embeddings of the samples, any float type.
    targets: of the P prompts.
    threshold: a cosine, in [-1, 1].

  Raises:
    UserError: a threshold that is no cosine.
  """
  if not -1 <= threshold <= 1:
    raise UserError(f"threshold={threshold}: expected a cosine")
  cosines = _cosines(images, targets.history)  # [P, G, N]
  nearest = _max(cosines, targets.history_mask)  # [P, G]
  # Without a history -inf is nearest, and the penalty 0.
  return jnp.minimum(threshold - nearest, 0.0)


def diversity(images: jax.Array, targets: Targets) -> jax.Array:
  """Returns 1 - the mean cosine with the group's other samples: [P, G].

  The mean over a group is its diversity, the mean distance of its pairs.
  Within a group it differs from a sample's leave-one-out contribution, the
  diversity with it minus that without it, by a factor and a constant only: so
  it is the policy gradient of diversity, baseline included.

  Args:
    images: [P, G, E] unit embeddings of the samples, any float type; G > 1.
    targets: not read.

  Raises:
    UserError: one sample per prompt, which has no others.
  """
  del targets
  samples = images.shape[1]
  if samples < 2:
    raise UserError(
      f"the reward 'diversity' with {samples} sample per prompt: expected at"
      " least 2; raise num_samples or give its weight as 0"
    )
  cosines = _cosines(images, images)  # [P, G, G]
  # Without the sample itself, whose cosine is 1 but for rounding.
  own = jnp.eye(samples, dtype=bool)[None]
  others = jnp.where(own, 0.0, cosines).sum(-1)  # [P, G]
  return 1 - others / (samples - 1)


def quality(images: jax.Array, targets: Targets) -> jax.Array:
  """Returns the logit of the next item's title and the image: [P, G].

  exp(logit_scale) times the cosine, by an encoder that people's choices
  trained; PickScore's is about 20. Kirstain et al., arXiv 2305.01569, equation
  1, as their `PickScore_v1` computes it.

  Args:
    images: [P, G, E] unit embeddings of the samples, any float type.
    targets: of the P prompts, `text` times exp(logit_scale).
  """
  return text(images, targets)


def _cosines(images: jax.Array, items: jax.Array) -> jax.Array:
  """Compares unit vectors [P, G, E] and [P, M, E]: [P, G, M] float32.

  At the default precision a TPU would multiply in bfloat16, whose rounding
  (4e-3) is as large as the differences within a group.
  """
  return jnp.einsum(
    "pge,pme->pgm",
    at_least_float32(images),
    at_least_float32(items),
    precision=jax.lax.Precision.HIGHEST,
  )


def compare(images: jax.Array, items: jax.Array) -> jax.Array:
  """Returns the cosines of unit vectors [B, 1, E] and [B, 1, E]: [B]."""
  return _cosines(images, items)[:, 0, 0]


def _mean(values: jax.Array, weights: jax.Array) -> jax.Array:
  """Averages values [P, G, M] with weights [P, M]; 0 where none is above 0."""
  weights = weights[:, None]  # [P, 1, M]
  # Where, not a product: an unused slot may hold nan.
  total = jnp.where(weights > 0, values * weights, 0.0).sum(-1)  # [P, G]
  return total / jnp.maximum(weights.sum(-1), jnp.finfo(jnp.float32).tiny)


def _max(values: jax.Array, mask: jax.Array) -> jax.Array:
  """Takes the largest of values [P, G, M] under mask [P, M]; -inf if none."""
  return jnp.max(values, -1, initial=-jnp.inf, where=mask[:, None])


def _or_zero(values: jax.Array, mask: jax.Array) -> jax.Array:
  """Returns values [P, G], 0 where the prompt's mask [P, M] is all False."""
  return jnp.where(mask.any(1)[:, None], values, 0.0)


def _ages(mask: jax.Array) -> jax.Array:
  """Counts the real items after each slot [P, N]: 0 is the newest."""
  return jnp.cumsum(mask[:, ::-1].astype(jnp.int32), 1)[:, ::-1] - 1


def _first(mask: jax.Array) -> jax.Array:
  """Keeps of mask [P, M] the first True of each row."""
  return mask & (jnp.cumsum(mask.astype(jnp.int32), 1) == 1)


def _check_pool(pool: str, pools: tuple[str, ...]) -> None:
  if pool not in pools:
    raise UserError(f"pool={pool!r}: expected one of {', '.join(pools)}")
