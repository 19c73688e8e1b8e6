"""Policy-gradient objectives, each choice a small pure function with a name.

    loss = -aggregate(clipped_surrogate(ratio, advantages)) + kl_weight * kl

Answers are images of a fixed number of codes, so no function here takes a mask
or knows an end token. Everything is computed in float32 or wider, whatever the
inputs. Letters: P prompts, G samples per prompt, I codes per image.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genrec_jax.core.errors import UserError

# A spread of rewards below this is rounding (about 16 units in the last place
# of 1.0 in float32): cosines and weights are of order one, and two samples of
# the same picture may differ by a few units.
_ROUNDING = 2e-6

# The smallest deviation of a group that GRPO divides by, in cosines. Without a
# floor the smallest difference counts as much as the greatest: an image whose
# similarity is 1e-5 above the copy threshold is punished like a copy. bfloat16
# rounds cosines by up to 0.004, so what is below 0.01 may be mostly rounding;
# the samples of a prompt usually spread by more, the tiny model's by 0.15
# to 0.23.
FLOOR = 0.01

# The distributions that ratio and KL may be of: the one that was sampled from,
# or the one without guidance.
SCORINGS = ("guided", "conditional")
# What the KL in the loss is of: the distribution that is scored, or each of the
# branches that guidance is made of.
KL_OF = ("scored", "branches")

# exp(20) is beyond any use of a ratio and far from overflow; without a limit an
# overflow becomes inf * 0 = nan in groups whose advantage is 0.
_LIMIT = 20.0


def wide(x: jax.Array) -> jax.Array:
  """Returns x as float32, or as it is where it is wider."""
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def centred(rewards: jax.Array) -> jax.Array:
  """Subtracts each group's mean; exactly 0 where a group has no spread.

  Args:
    rewards: [P, G], any float type.

  Returns:
    [P, G] float32. A nan or inf is passed on, never turned into 0.
  """
  rewards = wide(rewards)
  # Shifting by one sample first is exact for close values, so equal rewards
  # leave exactly 0 whatever the rounding of their mean.
  shifted = rewards - rewards[:, :1]
  values = shifted - shifted.mean(1, keepdims=True)
  return jnp.where(zero_spread(rewards)[:, None], 0.0, values)


def zero_spread(rewards: jax.Array) -> jax.Array:
  """Returns [P] bool: True where the rewards [P, G] of a group are equal.

  Equal means within the rounding of float32: max - min <= 2e-6 times the
  greater of 1 and the largest |reward|. A group holding nan or inf is not.
  """
  rewards = wide(rewards)
  spread = rewards.max(1) - rewards.min(1)
  scale = jnp.maximum(1.0, jnp.abs(rewards).max(1))
  return jnp.isfinite(spread) & (spread <= _ROUNDING * scale)


def deviation(rewards: jax.Array) -> jax.Array:
  """Returns each group's standard deviation: [P, G] -> [P, 1] float32.

  That of the population (divided by G). Exactly 0 where a group has no spread,
  see `centred`.
  """
  values = centred(rewards)
  return jnp.sqrt(jnp.mean(values * values, 1, keepdims=True))


def _leave_one_out(rewards: jax.Array) -> jax.Array:
  samples = rewards.shape[1]
  if samples < 2:
    raise UserError(
      f"advantage 'rloo' with {samples} sample per prompt: expected at least"
      " 2, the others are the baseline; raise num_samples or use 'reinforce'"
    )
  # r_i - mean of the others = G / (G - 1) (r_i - mean of all)
  return centred(rewards) * (samples / (samples - 1))


class Advantage(NamedTuple):
  """How an advantage is made of rewards [P, G]."""

  relative: Callable[[jax.Array], jax.Array]  # subtracts the baseline; linear
  standardised: bool  # then divides by the group's deviation


ADVANTAGES: Mapping[str, Advantage] = {
  "grpo": Advantage(centred, True),
  "dr_grpo": Advantage(centred, False),
  "rloo": Advantage(_leave_one_out, False),
  "reinforce": Advantage(wide, False),
}


def advantages(
  name: str,
  rewards: jax.Array,
  *,
  floor: float | jax.Array = FLOOR,
  of: jax.Array | None = None,
) -> jax.Array:
  """Turns rewards into advantages, which are constants to the gradient.

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
  how = _named("advantage", ADVANTAGES, name)
  values = how.relative(rewards if of is None else of)
  if how.standardised:
    values = values / jnp.maximum(deviation(rewards), floor)
  return jax.lax.stop_gradient(values)


def _difference(logprobs: jax.Array, constant: jax.Array) -> jax.Array:
  """Returns logprobs - constant in [-20, 20]; the gradient is 0 beyond."""
  constant = jax.lax.stop_gradient(wide(constant))
  return jnp.clip(wide(logprobs) - constant, -_LIMIT, _LIMIT)


def _sequence_mean(values: jax.Array) -> jax.Array:
  return jnp.broadcast_to(values.mean(-1, keepdims=True), values.shape)


RATIOS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
  "token": lambda values: values,
  "sequence": _sequence_mean,
}


def log_ratio(
  name: str, logprobs: jax.Array, behaviour: jax.Array
) -> jax.Array:
  """Returns the log of the importance ratio policy / behaviour.

  - token: of each code by itself.
  - sequence: the mean over the image's codes, the same for each of them, so
    the ratio is the sequence's, normalised by its length. GSPO, arXiv
    2507.18071, equation 7. With one advantage per image its gradient is that of
    GSPO-token (equations 11 and 18 there).

  Differences are limited to [-20, 20].

  Args:
    name: one of the above.
    logprobs: [P, G, I] under the policy; the gradient flows here.
    behaviour: [P, G, I] under the policy that sampled; a constant.

  Returns:
    [P, G, I] float32.

  Raises:
    UserError: an unknown name.
  """
  return _named("ratio", RATIOS, name)(_difference(logprobs, behaviour))


def clipped_surrogate(
  ratio: jax.Array,
  advantages: jax.Array,
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
  if not 0 < clip_low <= 1 or not clip_high > 0:
    raise UserError(
      f"clip_low={clip_low}, clip_high={clip_high}: expected 0 < clip_low <= 1"
      " and clip_high > 0; published values are 0.2 and 0.28"
    )
  ratio, each = wide(ratio), wide(advantages)[..., None]
  clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
  return jnp.minimum(ratio * each, clipped * each)


def truncated_weights(
  behaviour: jax.Array, sampled: jax.Array, cap: float
) -> jax.Array:
  """Returns min(behaviour / sampled, cap) of each code: constants.

  Truncated importance sampling: the codes came from the sampler, whose numbers
  round otherwise than those that the ratio starts from. Source: Yao et al.,
  "On the Rollout-Training Mismatch in Modern RL Systems", 2025,
  fengyao.notion.site/off-policy-rl (there 2 is usual); after Ionides, 2008.

  Args:
    behaviour: [P, G, I] log-probabilities under the policy that sampled, as
      scoring computes them.
    sampled: [P, G, I] as the sampler reported them.
    cap: the largest weight, > 0.

  Returns:
    [P, G, I] float32.
  """
  ratio = jnp.exp(_difference(behaviour, sampled))
  return jax.lax.stop_gradient(jnp.minimum(ratio, cap))


def sampler_mismatch(
  behaviour: jax.Array,
  sampled: jax.Array,
  *,
  ratio: str,
  clip_low: float,
  clip_high: float,
) -> dict[str, jax.Array]:
  """Says how far what the sampler reported is from what scoring computes.

  Args:
    behaviour: see `truncated_weights`.
    sampled: see `truncated_weights`.
    ratio: see `log_ratio`.
    clip_low: see `clipped_surrogate`.
    clip_high: see `clipped_surrogate`.

  Returns:
    Metrics [], float32: `sampler_mismatch_mean` and `_max`, of |behaviour -
    sampled| in nats per code; `sampler_mismatch_outside`, the share of codes
    that the clip would stop at once if the sampler's were the old policy.
  """
  apart = jnp.abs(_difference(behaviour, sampled))
  ratios = jnp.exp(log_ratio(ratio, behaviour, sampled))
  outside = (ratios < 1 - clip_low) | (ratios > 1 + clip_high)
  metrics = {
    "sampler_mismatch_mean": apart.mean(),
    "sampler_mismatch_max": apart.max(),
    "sampler_mismatch_outside": outside.mean(dtype=ratios.dtype),
  }
  return jax.lax.stop_gradient(metrics)


def _k2(difference: jax.Array) -> jax.Array:
  return 0.5 * difference * difference


def _k3(difference: jax.Array) -> jax.Array:
  x = -difference
  # exp(x) - 1 - x loses every digit to cancellation near 0, and may turn
  # negative: there its series, to a relative 3e-7 at 0.1.
  series = x * x * (0.5 + x * (1 / 6 + x * (1 / 24 + x / 120)))
  return jnp.where(jnp.abs(x) < 0.1, series, jnp.expm1(x) - x)


def _k3_straight_through(difference: jax.Array) -> jax.Array:
  carrier = _k2(difference)
  value = jax.lax.stop_gradient(_k3(difference))
  return value + (carrier - jax.lax.stop_gradient(carrier))


KLS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
  "k2": _k2,
  "k3": _k3,
  "k3_straight_through": _k3_straight_through,
}


def kl(name: str, logprobs: jax.Array, reference: jax.Array) -> jax.Array:
  """Estimates KL(policy || reference) of each code, given the codes before it.

  With d = logprobs - reference, of codes sampled from the policy:

  - k2: d^2 / 2. Its value is biased, its gradient d * grad(logprob) is an
    unbiased estimate of the KL's gradient.
  - k3: exp(-d) - 1 + d >= 0. Its value is unbiased; its gradient is in
    expectation that of KL(reference || policy). GRPO's choice.
  - k3_straight_through: the value of k3 with the gradient of k2.

  k1 = d is not offered: as a loss its expected gradient is 0. All are exact
  only on policy (the first inner epoch), and leave out what a code does to the
  codes after it. Differences are limited to [-20, 20].

  Sources: J. Schulman, "Approximating KL Divergence", 2020,
  joschu.net/blog/kl-approx.html (k1, k2, k3); Tang and Munos, arXiv 2506.09477
  (their gradients, and the part left out); verl's kl penalties ending in "+"
  (the straight-through form).

  Args:
    name: one of the above.
    logprobs: [P, G, I] under the policy; the gradient flows here.
    reference: [P, G, I] under the reference; a constant.

  Returns:
    [P, G, I] float32.

  Raises:
    UserError: an unknown name.
  """
  return _named("kl", KLS, name)(_difference(logprobs, reference))


AGGREGATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
  "token": jnp.mean,
  "sequence": lambda values: values.sum(-1).mean(),
}


def aggregate(name: str, values: jax.Array) -> jax.Array:
  """Returns one number for the values of all codes.

  - token: the mean over all codes. Images have equal lengths, so GRPO's mean
    of means (arXiv 2402.03300) and DAPO's mean over tokens (arXiv 2503.14476)
    are both this. With the sequence ratio it is GSPO's objective.
  - sequence: the sum over an image's codes, then the mean over images. Of log
    probabilities times rewards it is the REINFORCE estimate of the expected
    reward's gradient, I times the other.

  Args:
    name: one of the above.
    values: [P, G, I].

  Returns:
    [] float32.

  Raises:
    UserError: an unknown name.
  """
  return _named("aggregation", AGGREGATIONS, name)(wide(values))


def policy_loss(
  logprobs: jax.Array,
  behaviour: jax.Array,
  reference: jax.Array | None,
  advantages: jax.Array,
  *,
  ratio: str,
  clip_low: float,
  clip_high: float,
  kl: str,
  kl_weight: float,
  aggregation: str,
  weights: jax.Array | None = None,
  branches: tuple[jax.Array, jax.Array] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the loss to minimise and its metrics.

  Args:
    logprobs: [P, G, I] under the policy; the only input with a gradient.
    behaviour: [P, G, I] under the policy that sampled.
    reference: [P, G, I] under the frozen reference; None with kl_weight 0.
    advantages: [P, G].
    ratio: see `log_ratio`.
    clip_low: see `clipped_surrogate`.
    clip_high: see `clipped_surrogate`.
    kl: see the function `kl`.
    kl_weight: of the KL in the loss, >= 0.
    aggregation: see `aggregate`; of surrogate and KL alike.
    weights: [P, G, I], constant factors of the surrogate, see
      `truncated_weights`; None: 1.
    branches: [P, G, I, B], log-probabilities of the codes in each of the B
      branches that guidance is made of, under policy and reference; the KL in
      the loss is then the sum of theirs. They are estimated at codes of the
      guided distribution: 0 where nothing drifts, else not exact.

  Returns:
    The loss [] and metrics [], float32: `policy_loss` without the KL;
    `ratio_mean`; `ratio_max_deviation`, the largest |ratio - 1|;
    `clip_fraction`, the share of codes whose gradient the clip stopped; and,
    with a reference, `kl`, the mean k3 per code whatever estimator trains.

  Raises:
    UserError: an unknown name or a value outside its range.
    ValueError: shapes that do not belong together.
  """
  _check_shapes(logprobs, behaviour, reference, advantages)
  if not kl_weight >= 0 or (kl_weight and reference is None):
    given = "no" if reference is None else "a"
    raise UserError(
      f"kl_weight={kl_weight} with {given} reference: expected >= 0, and a"
      " reference where it is positive"
    )
  estimator = _named("kl", KLS, kl)
  advantages = jax.lax.stop_gradient(wide(advantages))
  ratios = jnp.exp(log_ratio(ratio, logprobs, behaviour))
  surrogate = clipped_surrogate(ratios, advantages, clip_low, clip_high)
  if weights is not None:
    surrogate *= jax.lax.stop_gradient(wide(weights))
  loss = policy = -aggregate(aggregation, surrogate)
  each = advantages[..., None]
  stopped = ((each > 0) & (ratios > 1 + clip_high)) | (
    (each < 0) & (ratios < 1 - clip_low)
  )
  metrics = {
    "policy_loss": policy,
    "ratio_mean": ratios.mean(),
    "ratio_max_deviation": jnp.abs(ratios - 1).max(),
    "clip_fraction": stopped.mean(dtype=ratios.dtype),
  }
  if reference is not None:
    difference = _difference(logprobs, reference)
    metrics["kl"] = _k3(difference).mean()
    if kl_weight:
      penalty = estimator(difference)
      if branches is not None:
        penalty = estimator(_difference(*branches)).sum(-1)
      penalty = aggregate(aggregation, penalty)
      loss = loss + kl_weight * penalty
  return loss, jax.lax.stop_gradient(metrics)


def _check_shapes(logprobs, behaviour, reference, advantages) -> None:
  """Raises a ValueError that lists every shape that does not fit."""
  expected = {"logprobs": (logprobs, "[P, G, I]", logprobs.shape)}
  expected["behaviour"] = (behaviour, "[P, G, I]", logprobs.shape)
  if reference is not None:
    expected["reference"] = (reference, "[P, G, I]", logprobs.shape)
  expected["advantages"] = (advantages, "[P, G]", logprobs.shape[:2])
  wrong = [
    f"{name} {array.shape}, expected {letters} = {shape}"
    for name, (array, letters, shape) in expected.items()
    if array.shape != shape or array.ndim != letters.count(",") + 1
  ]
  if wrong:
    raise ValueError("policy_loss: " + "; ".join(wrong))


def _named(what: str, table: Mapping[str, Callable], name: str) -> Callable:
  """Looks a choice up by name, or says which names there are."""
  if name not in table:
    raise UserError(f"{what}={name!r}: expected one of {', '.join(table)}")
  return table[name]
