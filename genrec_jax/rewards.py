"""Rewards: cosines in CLIP space between a drawn image and what a user likes.

A prompt's title, history and future are embedded once and compared with all of
its samples. Everything is computed in float32 and treated as constant by the
objectives. Letters: P prompts, G samples per prompt, N history items, F future
items, E the width of CLIP's common space.
"""

from collections.abc import Callable, Mapping
import functools

from flax import struct
import jax
import jax.numpy as jnp

from genrec_jax import objectives
from genrec_jax.core.errors import UserError, listed
from genrec_jax.core.types import Batch, PyTree
from genrec_jax.models.clip import Clip
from genrec_jax.objectives import FLOOR, deviation, wide, zero_spread

NAMES = ("text", "history", "future", "copy")
HISTORY_POOLS = ("mean", "max", "recency")
FUTURE_POOLS = ("mean", "max", "first")


@struct.dataclass
class Targets:
  """What the samples of each prompt are compared with; unit vectors."""

  text: jax.Array  # [P, E] float32, the next item's title
  history: jax.Array  # [P, N, E] float32, oldest first
  history_mask: jax.Array  # [P, N] bool, True = a real item
  future: jax.Array  # [P, F, E] float32, the next item first
  future_mask: jax.Array  # [P, F] bool, True = a real item


def embed_targets(clip: Clip, params: PyTree, batch: Batch) -> Targets:
  """Embeds the batch's titles, history and future, each once.

  Args:
    clip: the reward model.
    params: its parameters.
    batch: P windows; images uint8.

  Returns:
    Targets, without gradients.
  """
  history = batch.history
  pixels = jnp.concatenate([history, batch.future], 1)  # [P, N + F, h, w, 3]
  embeds = wide(clip.embed_images(params, pixels.astype(jnp.float32) / 255))
  text = wide(clip.embed_texts(params, batch.title_ids, batch.title_mask))
  return jax.lax.stop_gradient(
    Targets(
      text=text,
      history=embeds[:, : history.shape[1]],
      history_mask=batch.history_mask,
      future=embeds[:, history.shape[1] :],
      future_mask=batch.future_mask,
    )
  )


def _mean(values: jax.Array, weights: jax.Array) -> jax.Array:
  """Averages values [P, G, M] with weights [P, M]; 0 where none is above 0."""
  weights = weights[:, None]
  # Where, not a product: an unused slot may hold nan.
  total = jnp.where(weights > 0, values * weights, 0.0).sum(-1)
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


def score(
  images: jax.Array,
  targets: Targets,
  *,
  history_pool: str,
  future_pool: str,
  copy_threshold: float,
  recency_decay: float,
) -> dict[str, jax.Array]:
  """Returns the four raw rewards of each sample.

  - text: cosine with the next item's title.
  - history: cosines with the user's history, pooled by `history_pool`: mean;
    max; recency, weighted by recency_decay ** (number of newer items).
  - future: cosines with the user's next items, pooled by `future_pool`: mean;
    max; first, the very next one.
  - copy: minus what the largest cosine with any history item exceeds
    copy_threshold by, 0 below. History alone is won by copying.

  Masked items never count. A prompt without any real item has reward 0 there,
  equal for all its samples, so it takes no part in the gradient.

  Args:
    images: [P, G, E] unit embeddings of the samples, any float type.
    targets: what to compare with.
    history_pool: see above.
    future_pool: see above.
    copy_threshold: a cosine, in [-1, 1].
    recency_decay: in (0, 1]; 1 is the mean. Used by 'recency' only.

  Returns:
    {'text', 'history', 'future', 'copy'} -> [P, G] float32.

  Raises:
    UserError: an unknown pool or a value outside its range; all are listed.
  """
  _check_options(history_pool, future_pool, copy_threshold, recency_decay)
  images = wide(images)
  seen, ahead = targets.history_mask, targets.future_mask
  history = _cosines(images, targets.history)
  future = _cosines(images, targets.future)
  nearest = _max(history, seen)

  if history_pool == "max":
    liked = _or_zero(nearest, seen)
  else:
    decay = recency_decay if history_pool == "recency" else 1.0
    weights = jnp.where(seen, decay ** _ages(seen).astype(jnp.float32), 0.0)
    liked = _mean(history, weights)
  if future_pool == "max":
    next_liked = _or_zero(_max(future, ahead), ahead)
  else:
    counted = _first(ahead) if future_pool == "first" else ahead
    next_liked = _mean(future, counted.astype(jnp.float32))

  return {
    "text": _cosines(images, targets.text[:, None])[..., 0],
    "history": liked,
    "future": next_liked,
    "copy": jnp.minimum(copy_threshold - nearest, 0.0),
  }


def _one(values: jax.Array) -> jax.Array:
  return jnp.ones((1, 1), values.dtype)


def _group_deviation(values: jax.Array) -> jax.Array:
  return jnp.maximum(deviation(values), FLOOR)


def _batch_deviation(values: jax.Array) -> jax.Array:
  return jnp.maximum(deviation(values).mean(keepdims=True), FLOOR)


# What a reward [P, G] is divided by, [P, 1] or [1, 1].
NORMALISATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
  "group": _group_deviation,
  "batch": _batch_deviation,
  "none": _one,
}


def contradictions(
  *, advantage: str, normalise: str, num_samples: int
) -> list[str]:
  """Returns what is wrong with a choice of advantages, a line for each.

  Refused are:

  - names that there are not;
  - normalise 'group' with any advantage but 'grpo': when each reward is divided
    by its group's deviation, dr_grpo and reinforce are equal, rloo is G / (G -
    1) times them, and none is what its name says;
  - one sample per prompt with any advantage but 'reinforce': it is its own
    baseline, and every advantage is 0;
  - one sample per prompt with any normalise but 'none': there is no deviation.
  """
  problems = [
    f"{key}={name!r}: expected one of {', '.join(table)}"
    for key, name, table in (
      ("advantage", advantage, objectives.ADVANTAGES),
      ("normalise", normalise, NORMALISATIONS),
    )
    if name not in table
  ]
  if problems:
    return problems
  if normalise == "group" and advantage != "grpo":
    problems.append(
      f"normalise='group' with advantage={advantage!r}: dividing by each"
      " group's deviation makes dr_grpo, rloo and reinforce one algorithm; use"
      f" normalise='batch' with {advantage!r}, or advantage='grpo'"
    )
  if num_samples < 2 and advantage != "reinforce":
    problems.append(
      f"advantage={advantage!r} with num_samples={num_samples}: a lone sample"
      " is its own baseline and teaches nothing; raise num_samples, or use"
      " advantage='reinforce' with normalise='none'"
    )
  elif num_samples < 2 and normalise != "none":
    problems.append(
      f"normalise={normalise!r} with num_samples={num_samples}: a lone sample"
      " has no deviation to divide by; raise num_samples, or use"
      " normalise='none'"
    )
  return problems


def advantages(
  rewards: Mapping[str, jax.Array],
  weights: Mapping[str, float],
  *,
  normalise: str,
  advantage: str,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Turns raw rewards into one advantage per sample.

  Each reward is divided by a unit, weighted and summed; the sum goes through
  `objectives.advantages`. The unit is, by `normalise`:

  - group: the reward's deviation within the sample's group, so that a weight
    means the same whatever a reward's spread, in every group. GDPO, arXiv
    2601.05242, section 3. With `grpo` only.
  - batch: the mean over the groups of the whole batch of that deviation. A
    weight means the same on average, but a group that spreads twice as far
    counts twice as much.
  - none: 1, raw cosines.

  A deviation is taken to be at least `objectives.FLOOR`, 0.01. So the penalty
  of a copy grows in proportion to its excess over the threshold until the
  group's deviation is 0.01 (an excess of 0.03 where one of 8 samples is a
  copy). Without a floor the only sample of a group above the threshold has the
  standardised penalty -sqrt(G - 1), whatever its excess. The deviation of the
  sum, which grpo divides by, has the same floor in the sum's own unit: the
  largest weight over the largest unit.

  Args:
    rewards: name -> [P, G], of all prompts of the step, on all devices.
    weights: name -> weight, the same names; a reward of weight 0 is left out.
    normalise: see above.
    advantage: see `objectives.advantages`.

  Returns:
    The advantages, [P, G] float32, constants to the gradient; and two metrics
    [] of each reward: `reward/NAME_weighted_mean`, weight times raw mean, and
    `reward/NAME_contribution`, its share of the advantages: the mean product of
    its part and the whole, over the whole's mean square. Shares add up to 1, or
    are all 0 where the advantages are; one that the others outvote is negative.

  Raises:
    UserError: names that differ, or choices that mean nothing together, see
      `contradictions`; all are listed.
  """
  if set(rewards) != set(weights):
    raise UserError(
      f"weights of {sorted(weights)}: expected one for each reward,"
      f" {sorted(rewards)}; give 0 to leave one out"
    )
  shape = next(iter(rewards.values())).shape
  problems = contradictions(
    advantage=advantage, normalise=normalise, num_samples=shape[1]
  )
  if problems:
    raise UserError(listed("advantages that cannot be:", problems))
  used = {name: wide(rewards[name]) for name, w in weights.items() if w}
  units = {k: NORMALISATIONS[normalise](v) for k, v in used.items()}
  terms = {k: weights[k] * v / units[k] for k, v in used.items()}
  total = sum(terms.values(), jnp.zeros(shape, jnp.float32))
  floor = FLOOR
  if used:
    largest = functools.reduce(jnp.maximum, units.values())
    floor = FLOOR * max(abs(weights[k]) for k in used) / largest
  whole = objectives.advantages(advantage, total, floor=floor)
  square = jnp.mean(whole * whole)
  metrics = {}
  for name, values in rewards.items():
    share = jnp.zeros((), jnp.float32)
    if name in terms:
      part = objectives.advantages(
        advantage, total, floor=floor, of=terms[name]
      )
      share = jnp.mean(part * whole) / jnp.where(square == 0, 1.0, square)
    metrics[f"reward/{name}_weighted_mean"] = (
      weights[name] * wide(values).mean()
    )
    metrics[f"reward/{name}_contribution"] = share
  return whole, jax.lax.stop_gradient(metrics)


def statistics(rewards: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Describes raw rewards name -> [P, G] in three metrics [] each.

  `reward/NAME_mean`; `reward/NAME_std`, the mean over prompts of the deviation
  within a group, what advantages are made of; `reward/NAME_zero_spread`, the
  share of groups whose samples are all equal and teach nothing.
  """
  metrics = {}
  for name, values in rewards.items():
    values = wide(values)
    equal = zero_spread(values).astype(values.dtype)
    metrics[f"reward/{name}_mean"] = values.mean()
    metrics[f"reward/{name}_std"] = values.std(1).mean()
    metrics[f"reward/{name}_zero_spread"] = equal.mean()
  return metrics


def _cosines(images: jax.Array, others: jax.Array) -> jax.Array:
  """Compares unit vectors [P, G, E] and [P, M, E]: [P, G, M] float32.

  At the default precision a TPU would multiply in bfloat16, whose rounding
  (4e-3) is as large as the differences within a group.
  """
  return jnp.einsum(
    "pge,pme->pgm", images, wide(others), precision=jax.lax.Precision.HIGHEST
  )


def _check_options(
  history_pool: str,
  future_pool: str,
  copy_threshold: float,
  recency_decay: float,
) -> None:
  """Raises a UserError that lists every option out of range."""
  wrong = [
    f"{key}={name!r}: expected one of {', '.join(names)}"
    for key, name, names in (
      ("history_pool", history_pool, HISTORY_POOLS),
      ("future_pool", future_pool, FUTURE_POOLS),
    )
    if name not in names
  ]
  if not -1 <= copy_threshold <= 1:
    wrong.append(f"copy_threshold={copy_threshold}: expected a cosine")
  if not 0 < recency_decay <= 1:
    wrong.append(f"recency_decay={recency_decay}: expected in (0, 1]")
  if wrong:
    raise UserError("; ".join(wrong))
