"""Advantages: from raw rewards [P, G] to one number per sample.

    advantage = estimate(sum over rewards of weight * reward / unit)

Letters: P prompts, G samples per prompt.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genrec_jax.core.errors import UserError, listed, lookup
from genrec_jax.groups import (
  FLOOR,
  at_least_float32,
  deviation,
  subtract_group_mean,
)

Weight = float | jax.Array  # [] where it changes
_LEAST_WEIGHT = 1e-12


def _leave_one_out(rewards: jax.Array) -> jax.Array:  # [P, G] -> [P, G]
  samples = rewards.shape[1]
  if samples < 2:
    raise UserError(
      f"advantage 'rloo' with {samples} sample per prompt: expected at least"
      " 2, the others are the baseline; raise num_samples or use 'reinforce'"
    )
  # r_i - mean of the others = G / (G - 1) (r_i - mean of all)
  return subtract_group_mean(rewards) * (samples / (samples - 1))


class Advantage(NamedTuple):
  """How an advantage is made of rewards [P, G].

  `relative` is linear, so that the part of each reward in the advantage can be
  measured; see `estimate`.
  """

  # [P, G] -> [P, G]: subtracts the baseline; linear
  relative: Callable[[jax.Array], jax.Array]
  standardised: bool  # then divides by the group's deviation


ADVANTAGES: Mapping[str, Advantage] = {
  "grpo": Advantage(subtract_group_mean, True),
  "dr_grpo": Advantage(subtract_group_mean, False),
  "rloo": Advantage(_leave_one_out, False),
  "reinforce": Advantage(at_least_float32, False),
}


def estimate(
  name: str,
  rewards: jax.Array,  # [P, G]
  *,
  floor: float | jax.Array = FLOOR,  # [] or [P, 1]
  of: jax.Array | None = None,  # [P, G]
) -> jax.Array:
  """Returns the advantages of rewards, constants to the gradient.

  - grpo: (r - mean) / std of the group. arXiv 2402.03300, section 4.1.2. The
    deviation is the population's, so the mean square of a group is 1 for any G,
    and at least `floor`: below it the advantage falls with the spread. Common
    implementations add a constant to the deviation to the same end.
  - dr_grpo: r - mean. arXiv 2503.20783: dividing by the deviation weighs up
    prompts on which all samples are about equal.
  - rloo: r - mean of the group's other samples, the unbiased baseline.
    arXiv 2402.14740.
  - reinforce: r, no baseline. Williams 1992.

  A group of equal rewards has advantage exactly 0 but under `reinforce`.

  Args:
    name: one of the above.
    rewards: [P, G], any float type.
    floor: the smallest deviation that grpo divides by, > 0, in the unit of the
      rewards; a number or [P, 1].
    of: [P, G], a term of `rewards`: returns the term's part of the advantages.
      The parts of all terms add up to the advantages.

  Returns:
    [P, G] float32.

  Raises:
    UserError: an unknown name, or rloo with one sample per prompt.
  """
  how = lookup("advantage", ADVANTAGES, name)
  values = how.relative(rewards if of is None else of)  # [P, G]
  if how.standardised:  # by the whole's deviation, also where it is of a term
    values = values / jnp.maximum(deviation(rewards), floor)
  return jax.lax.stop_gradient(values)


# Of a reward [P, G] and of the groups [P] that are kept; None: all.
def _one(values: jax.Array, kept: jax.Array | None) -> jax.Array:  # [1, 1]
  del kept
  return jnp.ones((1, 1), values.dtype)


def _group_deviation(
  values: jax.Array, kept: jax.Array | None
) -> jax.Array:  # [P, 1]
  del kept
  return jnp.maximum(deviation(values), FLOOR)


def _batch_deviation(
  values: jax.Array, kept: jax.Array | None
) -> jax.Array:  # [1, 1]
  # The mean of deviations within groups: the deviation of the whole batch
  # would also hold the differences between prompts.
  rows = None if kept is None else kept[:, None]  # [P, 1]
  mean = deviation(values).mean(keepdims=True, where=rows)
  return jnp.maximum(mean, FLOOR)


# The unit that a reward [P, G] is divided by, [P, 1] or [1, 1].
NORMALISATIONS: Mapping[
  str, Callable[[jax.Array, jax.Array | None], jax.Array]
] = {
  "group": _group_deviation,
  "batch": _batch_deviation,
  "none": _one,
}


def contradictions(
  *, advantage: str, normalise: str, num_samples: int
) -> list[str]:
  """Returns what is wrong with a choice of advantages, a line for each.

  Refused are:

  - unknown names;
  - normalise 'group' with any advantage but 'grpo': when each reward is divided
    by its group's deviation, dr_grpo and reinforce are equal, rloo is G / (G -
    1) times them, and none is what its name says;
  - one sample per prompt with any advantage but 'reinforce': it is its own
    baseline, and every advantage is 0;
  - one sample per prompt with any normalise but 'none': there is no deviation.
  """
  tables = {"advantage": ADVANTAGES, "normalise": NORMALISATIONS}
  chosen = {"advantage": advantage, "normalise": normalise}
  problems = [
    f"{key}={name!r}: expected one of {', '.join(tables[key])}"
    for key, name in chosen.items()
    if name not in tables[key]
  ]
  if problems:  # the checks below compare known names
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


def combine(
  rewards: Mapping[str, jax.Array],  # [P, G] each
  weights: Mapping[str, Weight],
  *,
  normalise: str,
  advantage: str,
  kept: jax.Array | None = None,  # [P] bool
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns one advantage per sample from several raw rewards.

  Each reward is divided by a unit, weighted and summed; the sum goes through
  `estimate`. The unit is, by `normalise`:

  - group: the reward's deviation within the sample's group, so that a weight
    means the same whatever a reward's spread, in every group. GDPO, arXiv
    2601.05242, section 3. With `grpo` only.
  - batch: the mean over the groups of the whole batch of that deviation. A
    weight means the same on average, but a group that spreads twice as far
    counts twice as much.
  - none: 1, raw cosines.

  A deviation is taken to be at least `groups.FLOOR`, 0.01. So the penalty of a
  copy grows in proportion to its excess over the threshold until the group's
  deviation is 0.01 (an excess of 0.03 where one of 8 samples is a copy).
  Without a floor the only sample of a group above the threshold has the
  standardised penalty -sqrt(G - 1), whatever its excess. The deviation of the
  sum, which grpo divides by, has the same floor in the sum's own unit: the
  largest weight over the largest unit.

  Args:
    rewards: name -> [P, G], of all prompts of the step, on all devices.
    weights: name -> weight, the same names; a reward whose weight is the number
      0 is left out; an array [] is of a weight that changes.
    normalise: see above.
    advantage: see `estimate`.
    kept: [P] bool, False = a group that is left out, whose rewards may be NaN:
      its advantages are 0, and no other's depend on it; None: all are kept.

  Returns:
    The advantages, [P, G] float32, constants to the gradient; and metrics, see
    `_contributions`.

  Raises:
    UserError: names that differ, or choices that do not go together, see
      `contradictions`; all are listed.
  """
  if set(rewards) != set(weights):
    raise UserError(
      f"weights of {sorted(weights)}: expected one for each reward,"
      f" {sorted(rewards)}; give 0 to leave one out"
    )
  shape = next(iter(rewards.values())).shape  # [P, G]
  problems = contradictions(
    advantage=advantage, normalise=normalise, num_samples=shape[1]
  )
  if problems:
    raise UserError(listed("invalid advantages:", problems))
  # A reward of weight 0 may be nan: 0 * nan would spoil the sum.
  used = {
    k: at_least_float32(rewards[k]) for k, w in weights.items() if given(w)
  }
  if kept is not None:  # 0 * nan is nan: the left out go first
    rewards, used = (
      {k: jnp.where(kept[:, None], v, 0.0) for k, v in given.items()}
      for given in (rewards, used)
    )
  # [P, 1] or [1, 1] each.
  units = {k: NORMALISATIONS[normalise](v, kept) for k, v in used.items()}
  terms = {k: weights[k] * v / units[k] for k, v in used.items()}  # [P, G]
  # Zeros to start from: the sum of no terms would be the number 0.
  total = sum(terms.values(), jnp.zeros(shape, jnp.float32))  # [P, G]
  # The smallest deviation of the sum, in the unit of the sum: a spread of FLOOR
  # in a raw reward is weight * FLOOR / unit there.
  floor: float | jax.Array = FLOOR
  if used:
    largest = functools.reduce(jnp.maximum, units.values())  # as the units
    floor = FLOOR * _largest([weights[k] for k in used]) / largest
  whole = estimate(advantage, total, floor=floor)  # [P, G]
  # `relative` is linear and the divisor is the whole's, so these add up to
  # `whole`: the shares below are of one and the same advantage.
  parts = {  # [P, G] each
    name: estimate(advantage, total, floor=floor, of=term)
    for name, term in terms.items()
  }
  return whole, _contributions(rewards, weights, whole, parts, kept)


def given(weight: Weight) -> bool:
  """Returns whether a weight may be other than 0."""
  return isinstance(weight, jax.Array) or weight != 0


def _largest(weights: Sequence[Weight]) -> Weight:
  """Returns the largest of some weights, above 0."""
  numbers = [abs(w) for w in weights if not isinstance(w, jax.Array)]
  if len(numbers) == len(weights):
    return max(numbers)
  largest = functools.reduce(
    jnp.maximum, map(jnp.abs, map(jnp.asarray, weights))
  )
  # Where all that change are 0: nothing is divided by 0 then.
  return jnp.maximum(largest, _LEAST_WEIGHT)


def _contributions(
  rewards: Mapping[str, jax.Array],  # [P, G] each
  weights: Mapping[str, Weight],
  whole: jax.Array,  # [P, G]
  parts: Mapping[str, jax.Array],  # [P, G] each
  kept: jax.Array | None,  # [P] bool
) -> dict[str, jax.Array]:
  """Returns two metrics [] of each reward, constants to the gradient.

  `reward/NAME_weighted_mean`, weight times raw mean; `reward/NAME_contribution`
  the reward's share of the advantages: the mean product of its part and the
  whole, over the whole's mean square. Shares add up to 1, or are all 0 where
  the advantages are; one that the others outvote is negative.

  Args:
    rewards: name -> [P, G], raw.
    weights: name -> weight.
    whole: [P, G], the advantages.
    parts: name -> [P, G], of the rewards that have a weight; their sum is
      `whole`.
    kept: [P] bool, the groups that means are of; None: all.
  """
  rows = None if kept is None else kept[:, None]  # [P, 1]
  square = jnp.mean(whole * whole)  # []
  metrics = {}
  for name, values in rewards.items():
    # Also of rewards without a weight: the same metrics in every run, so that
    # curves of runs with other weights lie next to each other.
    share = jnp.zeros((), jnp.float32)  # []
    if name in parts:
      # An all-zero batch has no shares: 0 / 1, not 0 / 0.
      share = jnp.mean(parts[name] * whole) / jnp.where(
        square == 0, 1.0, square
      )
    metrics[f"reward/{name}_weighted_mean"] = weights[name] * at_least_float32(
      values
    ).mean(where=rows)
    metrics[f"reward/{name}_contribution"] = share
  return jax.lax.stop_gradient(metrics)
