"""Sampler mismatch: decode-loop log-probabilities against scored ones.

Both are of the same codes under the same parameters, but the decode loop rounds
otherwise. Letters: P prompts, G samples per prompt, I codes per image.
"""

import jax
import jax.numpy as jnp

from genrec_jax.groups import mean_of_tokens
from genrec_jax.objectives.kl import difference
from genrec_jax.objectives.policy import Objective, log_ratio


def truncated_weights(
  old_logprobs: jax.Array,  # [P, G, I]
  sampled: jax.Array,  # [P, G, I]
  cap: float,
) -> jax.Array:
  """Returns min(old / sampled, cap) of each code's probability: constants.

  Truncated importance sampling: the codes came from the sampler, whose numbers
  round otherwise than those that the ratio starts from. Source: Yao et al.,
  "On the Rollout-Training Mismatch in Modern RL Systems", 2025,
  fengyao.notion.site/off-policy-rl (there 2 is usual); after Ionides, 2008.

  Args:
    old_logprobs: [P, G, I] under the policy that sampled, as scoring computes
      them.
    sampled: [P, G, I] as the sampler reported them.
    cap: the largest weight, > 0.

  Returns:
    [P, G, I] float32.
  """
  ratio = jnp.exp(difference(old_logprobs, sampled))  # [P, G, I]
  # Cut above only: rare large weights would make most of the variance.
  return jax.lax.stop_gradient(jnp.minimum(ratio, cap))


def sampler_mismatch(
  objective: Objective,
  old_logprobs: jax.Array,  # [P, G, I]
  sampled: jax.Array,  # [P, G, I]
  mask: jax.Array | None = None,  # [P, G, I] bool
) -> dict[str, jax.Array]:  # [] each
  """Returns metrics of how far the sampler is from what scoring computes.

  Args:
    objective: whose ratio and clip a mismatch would pass.
    old_logprobs: see `truncated_weights`.
    sampled: see `truncated_weights`.
    mask: the tokens that count; None: all.

  Returns:
    Metrics [], float32: `sampler_mismatch_mean` and `_max`, of |old_logprobs -
    sampled| in nats per code; `sampler_mismatch_outside`, the share of codes
    that the clip would stop at once if the sampler's were the old policy.
  """
  apart = jnp.abs(difference(old_logprobs, sampled))  # [P, G, I]
  # As if the sampler's numbers were taken as the old policy's: [P, G, I].
  ratios = jnp.exp(log_ratio(objective.ratio, old_logprobs, sampled, mask))
  low, high = 1 - objective.clip_low, 1 + objective.clip_high
  outside = (ratios < low) | (ratios > high)
  metrics = {
    "sampler_mismatch_mean": mean_of_tokens(apart, mask),
    "sampler_mismatch_max": apart.max(),
    "sampler_mismatch_outside": mean_of_tokens(
      outside.astype(ratios.dtype), mask
    ),
  }
  return jax.lax.stop_gradient(metrics)
