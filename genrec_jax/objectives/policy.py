"""Policy loss: ratio, clip and aggregation, each choice named by a function.

    loss = -aggregate(clipped_surrogate(ratio, advantages))
           + kl_weight * kl_factor * kl

Images have a fixed number of codes and need no mask; titles have one, of what
was written, their end included. Everything is computed in float32 or wider,
whatever the inputs. Letters: P prompts, G samples per prompt, I codes per image
or tokens of a title, B branches.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from genrec_jax import knots
from genrec_jax.core.errors import UserError, lookup
from genrec_jax.groups import at_least_float32, mean_of_tokens
from genrec_jax.objectives import kl as kl_lib

# The distributions that ratio and KL may be of: the one that was sampled from,
# or the one without guidance.
SCORINGS = ("guided", "conditional")
# What the KL in the loss is of: the distribution that is scored, or each of the
# branches that guidance is made of.
KL_OF = ("scored", "branches")
# What sampling reads: all in the type that computes, weights in eight bits, or
# weights, keys and values.
ROLLOUT_TYPES = ("compute", "int8_weights", "int8")


def contradictions(
  *,
  scoring: str,
  kl_of: str,
  sampler_weight_cap: float,
  guidance: float,
  rollout_type: str,
) -> list[str]:
  """Returns what is wrong with a choice of what is scored, a line each.

  Refused are unknown names; weights of the sampler's distribution where another
  is scored, and none where the sampler is another policy; and a KL of both
  branches where only one is.
  """
  problems = [
    f"{key}={name!r}: expected one of {', '.join(names)}"
    for key, name, names in (
      ("scoring", scoring, SCORINGS),
      ("kl_of", kl_of, KL_OF),
      ("rollout_type", rollout_type, ROLLOUT_TYPES),
    )
    if name not in names
  ]
  if problems:  # the checks below compare known names
    return problems
  guided = scoring == "guided"
  if sampler_weight_cap and not guided:
    problems.append(
      f"sampler_weight_cap={sampler_weight_cap} with scoring='conditional':"
      " expected 0, the sampler's distribution is the guided one"
    )
  if rollout_type != "compute" and not sampler_weight_cap:
    problems.append(
      f"rollout_type={rollout_type!r} with sampler_weight_cap=0: expected a"
      " cap, 2 is usual, as codes come from a policy in eight bits and count by"
      " their probability under the one that is trained"
    )
  if kl_of == "branches" and (not guided or guidance == 1):
    problems.append(
      f"kl_of='branches' with scoring={scoring!r} and guidance={guidance}:"
      " expected scoring='guided' and a guidance other than 1, else only one"
      " branch is scored"
    )
  return problems


def schedule_problems(schedule: Any, kl_weight: float) -> list[str]:
  """Returns what is wrong with `Objective.kl_schedule`, a line each.

  Args:
    schedule: (step, factor of `kl_weight`), ...; () for none.
    kl_weight: what it multiplies.
  """
  name = "kl_schedule"
  if not isinstance(schedule, tuple) or not all(map(knots.is_knot, schedule)):
    return [
      f"{name} is {schedule!r}: expected (step, factor) for each knot, such as"
      " ((0, 1.0), (100, 0.1)), or () for none"
    ]
  if not schedule:
    return []
  if not kl_weight:
    return [
      f"{name} is {schedule!r} with kl_weight=0: expected a KL weight above 0,"
      " which the factor multiplies, or () for none"
    ]
  return knots.problems(
    schedule, name, "--config.objective.kl_weight=0 leaves the KL out"
  )


# [P, G, I] bool, True = a token of the sample; None: all are.
Mask = jax.Array | None


def _sequence_mean(values: jax.Array, mask: Mask) -> jax.Array:  # [P, G, I]
  if mask is None:
    mean = values.mean(-1, keepdims=True)
  else:
    mean = jnp.where(mask, values, 0.0).sum(-1, keepdims=True)
    mean /= mask.sum(-1, keepdims=True)
  # Back to one value a code, so that clip and aggregation need no second case.
  return jnp.broadcast_to(mean, values.shape)


def _sum_of_tokens(values: jax.Array, mask: Mask) -> jax.Array:  # []
  counted = values if mask is None else jnp.where(mask, values, 0.0)
  return counted.sum(-1).mean()


# Log-ratios of codes to log-ratios as the clip sees them: [P, G, I] both.
RATIOS: Mapping[str, Callable[[jax.Array, Mask], jax.Array]] = {
  "token": lambda values, mask: values,
  "sequence": _sequence_mean,
}
# [P, G, I] -> [].
AGGREGATIONS: Mapping[str, Callable[[jax.Array, Mask], jax.Array]] = {
  "token": mean_of_tokens,
  "sequence": _sum_of_tokens,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
  """The loss of a policy; config's section `objective`.

  Attributes:
    ratio: see `log_ratio`.
    clip_low: see `clipped_surrogate`.
    clip_high: see `clipped_surrogate`.
    kl: see `kl.estimate`.
    kl_weight: of the KL in the loss, >= 0; 0: no reference is needed.
    kl_schedule: (step, factor of kl_weight), ...; none: it stays.
    kl_factor: of kl_weight at the step that is taken; see `at`.
    aggregation: see `aggregate`; of surrogate and KL alike.
    entropy_weight: of `entropy.shortfall` in the loss, >= 0; 0: no bonus.
    entropy_target: nats per code below which the bonus acts.
    image_weight: of the loss of an image's codes beside that of a title, >= 0;
      not looked at where answers are images alone.
    title_weight: of the loss of a title's tokens, >= 0.
  """

  ratio: str  # of RATIOS
  clip_low: float  # (0, 1]
  clip_high: float  # (0, inf]
  kl: str  # of kl.KLS
  kl_weight: float
  aggregation: str  # of AGGREGATIONS
  entropy_weight: float = 0.0
  entropy_target: float = 0.0
  image_weight: float = 1.0
  title_weight: float = 1.0
  kl_schedule: knots.Knots = ()
  kl_factor: float | jax.Array = 1.0

  def at(self, step: jax.Array) -> "Objective":
    """Returns the objective of a step [], with the KL's weight there."""
    if not self.kl_schedule:
      return self
    factor = knots.factor(self.kl_schedule, step)
    return dataclasses.replace(self, kl_factor=factor)


def log_ratio(
  name: str,
  logprobs: jax.Array,  # [P, G, I]
  old_logprobs: jax.Array,  # [P, G, I]
  mask: Mask = None,  # [P, G, I]
) -> jax.Array:
  """Returns the log of the importance ratio policy / old policy.

  - token: of each code by itself.
  - sequence: the mean over the image's codes, the same for each of them, so
    the ratio is the sequence's, normalised by its length. GSPO, arXiv
    2507.18071, equation 7. With one advantage per image its gradient is that of
    GSPO-token (equations 11 and 18 there).

  Differences are limited to [-20, 20].

  Args:
    name: one of the above.
    logprobs: [P, G, I] under the policy; the gradient flows here.
    old_logprobs: [P, G, I] under the policy that sampled; a constant.
    mask: [P, G, I], the tokens that count.

  Returns:
    [P, G, I] float32.

  Raises:
    UserError: an unknown name.
  """
  apart = kl_lib.difference(logprobs, old_logprobs)  # [P, G, I]
  return lookup("ratio", RATIOS, name)(apart, mask)


def clipped_surrogate(
  ratio: jax.Array,  # [P, G, I]
  advantages: jax.Array,  # [P, G]
  clip_low: float,
  clip_high: float,
) -> jax.Array:
  """Returns min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), to be maximised.

  Sources: PPO, arXiv 1707.06347, equation 7; two bounds as in DAPO's clip
  higher, arXiv 2503.14476, section 3.1. GSPO clips far tighter (3e-4, 4e-4).

  Args:
    ratio: [P, G, I], positive.
    advantages: [P, G], one for all codes of an image.
    clip_low: how far below 1 a ratio may pay off, in (0, 1].
    clip_high: how far above 1 a ratio may pay off, > 0; inf never clips.

  Returns:
    [P, G, I] float32.

  Raises:
    UserError: a bound outside its range.
  """
  # `not >`, as nan is to be refused too.
  if not 0 < clip_low <= 1 or not clip_high > 0:
    raise UserError(
      f"clip_low={clip_low}, clip_high={clip_high}: expected 0 < clip_low <= 1"
      " and clip_high > 0; published values are 0.2 and 0.28"
    )
  ratio = at_least_float32(ratio)  # [P, G, I]
  each = at_least_float32(advantages)[..., None]  # [P, G, 1]
  clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)  # [P, G, I]
  # The lower bound of both: no reward for moving far, no shelter from a loss.
  return jnp.minimum(ratio * each, clipped * each)


def aggregate(name: str, values: jax.Array, mask: Mask = None) -> jax.Array:
  """Returns one number for the values of all codes.

  - token: the mean over all codes. Images have equal lengths, so GRPO's mean
    of means (arXiv 2402.03300) and DAPO's mean over tokens (arXiv 2503.14476)
    are both this; of titles it is the first. With the sequence ratio it is
    GSPO's objective.
  - sequence: the sum over an image's codes, then the mean over images. Of log
    probabilities times rewards it is the REINFORCE estimate of the expected
    reward's gradient, I times the other.

  Args:
    name: one of the above.
    values: [P, G, I].
    mask: [P, G, I], the tokens that count.

  Returns:
    [] float32.

  Raises:
    UserError: an unknown name.
  """
  return lookup("aggregation", AGGREGATIONS, name)(
    at_least_float32(values), mask
  )


def policy_loss(
  objective: Objective,
  logprobs: jax.Array,  # [P, G, I]
  old_logprobs: jax.Array,  # [P, G, I]
  ref_logprobs: jax.Array | None,  # [P, G, I]
  advantages: jax.Array,  # [P, G]
  *,
  weights: jax.Array | None = None,  # [P, G, I]
  branches: tuple[jax.Array, jax.Array] | None = None,  # [P, G, I, B] each
  mask: Mask = None,  # [P, G, I]
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the loss to minimise and its metrics.

  Args:
    objective: ratio, clip, KL and aggregation.
    logprobs: [P, G, I] under the policy; the only input with a gradient.
    old_logprobs: [P, G, I] under the policy that sampled.
    ref_logprobs: [P, G, I] under the frozen reference; None with kl_weight 0.
    advantages: [P, G].
    weights: [P, G, I], constant factors of the surrogate, see
      `mismatch.truncated_weights`; None: 1.
    branches: two [P, G, I, B], log-probabilities of the codes in each of the B
      branches that guidance is made of, under policy and reference; the KL in
      the loss is then the sum of theirs. They are estimated at codes of the
      guided distribution: 0 where nothing drifts, else not exact.
    mask: [P, G, I], the tokens that count; log-probabilities are 0 elsewhere.

  Returns:
    The loss [] and metrics [], float32: `policy_loss` without the KL;
    `ratio_mean`; `ratio_max_deviation`, the largest |ratio - 1|;
    `clip_fraction`, the share of codes whose gradient the clip stopped; and,
    with a reference, `kl`, the mean k3 per code whatever estimator trains.

  Raises:
    UserError: an unknown name or a value outside its range.
    ValueError: shapes that do not belong together.
  """
  _check_shapes(logprobs, old_logprobs, ref_logprobs, advantages)
  kl_weight = objective.kl_weight
  if not kl_weight >= 0 or (kl_weight and ref_logprobs is None):
    given = "no" if ref_logprobs is None else "a"
    raise UserError(
      f"kl_weight={kl_weight} with {given} reference: expected >= 0, and a"
      " reference where it is positive"
    )
  estimator = lookup("kl", kl_lib.KLS, objective.kl)
  clip_low, clip_high = objective.clip_low, objective.clip_high
  advantages = jax.lax.stop_gradient(at_least_float32(advantages))
  # [P, G, I] both. On policy all ratios are 1, and only their gradient counts.
  ratios = jnp.exp(log_ratio(objective.ratio, logprobs, old_logprobs, mask))
  surrogate = clipped_surrogate(ratios, advantages, clip_low, clip_high)
  if weights is not None:  # after the clip, which is of the policy's ratio
    surrogate *= jax.lax.stop_gradient(at_least_float32(weights))
  loss = policy = -aggregate(objective.aggregation, surrogate, mask)  # []
  metrics = {
    "policy_loss": policy,
    "ratio_mean": mean_of_tokens(ratios, mask),
    "ratio_max_deviation": jnp.abs(ratios - 1).max(),
    "clip_fraction": mean_of_tokens(
      _stopped(ratios, advantages, clip_low, clip_high), mask
    ),
  }
  if ref_logprobs is not None:
    apart = kl_lib.difference(logprobs, ref_logprobs)  # [P, G, I]
    # One estimator for all runs, so that their curves compare.
    metrics["kl"] = mean_of_tokens(kl_lib.k3(apart), mask)
    if kl_weight:
      if branches is None:
        penalty = estimator(apart)  # [P, G, I]
      else:
        # [P, G, I, B] to [P, G, I]: neither branch may drift.
        penalty = estimator(kl_lib.difference(*branches)).sum(-1)
      weight = kl_weight * objective.kl_factor
      loss += weight * aggregate(objective.aggregation, penalty, mask)
  return loss, jax.lax.stop_gradient(metrics)


def _stopped(
  ratios: jax.Array,  # [P, G, I]
  advantages: jax.Array,  # [P, G]
  clip_low: float,
  clip_high: float,
) -> jax.Array:
  """Returns 1 [P, G, I] at codes whose gradient the clip stops, else 0.

  A clip stops only what would move the ratio further out: upwards where the
  advantage is positive, downwards where it is negative.
  """
  each = advantages[..., None]  # [P, G, 1]
  stopped = ((each > 0) & (ratios > 1 + clip_high)) | (
    (each < 0) & (ratios < 1 - clip_low)
  )
  return stopped.astype(ratios.dtype)


def _check_shapes(
  logprobs: jax.Array,
  old_logprobs: jax.Array,
  ref_logprobs: jax.Array | None,
  advantages: jax.Array,
) -> None:
  """Raises a ValueError that lists every shape that does not fit."""
  expected = {"logprobs": (logprobs, "[P, G, I]", logprobs.shape)}
  expected["old_logprobs"] = (old_logprobs, "[P, G, I]", logprobs.shape)
  if ref_logprobs is not None:
    expected["ref_logprobs"] = (ref_logprobs, "[P, G, I]", logprobs.shape)
  expected["advantages"] = (advantages, "[P, G]", logprobs.shape[:2])
  # Checked, as broadcasting would turn a forgotten axis into another loss.
  wrong = [
    f"{name} {array.shape}, expected {letters} = {shape}"
    for name, (array, letters, shape) in expected.items()
    if array.shape != shape or array.ndim != letters.count(",") + 1
  ]
  if wrong:
    raise ValueError("policy_loss: " + "; ".join(wrong))
