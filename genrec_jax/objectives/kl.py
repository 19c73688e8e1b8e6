"""KL estimators of a policy and its reference, at sampled codes.

Letters: P prompts, G samples per prompt, I codes per image. All functions are
elementwise, so [P, G, I, B] with an axis of branches passes as well.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from genrec_jax.core.errors import lookup
from genrec_jax.groups import at_least_float32

# exp(20) is beyond any use of a ratio and far from overflow; without a limit an
# overflow becomes inf * 0 = nan in groups whose advantage is 0.
_LIMIT = 20.0


def difference(
  logprobs: jax.Array,  # [P, G, I]
  constant: jax.Array,  # [P, G, I]
) -> jax.Array:  # [P, G, I] float32
  """Returns logprobs - constant in [-20, 20]; the gradient is 0 beyond."""
  constant = jax.lax.stop_gradient(at_least_float32(constant))
  return jnp.clip(at_least_float32(logprobs) - constant, -_LIMIT, _LIMIT)


def k2(difference: jax.Array) -> jax.Array:  # [P, G, I]
  """Returns d^2 / 2 of d = logprobs - ref_logprobs; see `estimate`."""
  return 0.5 * difference * difference


def k3(difference: jax.Array) -> jax.Array:  # [P, G, I]
  """Returns exp(-d) - 1 + d of d = logprobs - ref_logprobs; see `estimate`."""
  x = -difference
  # exp(x) - 1 - x loses every digit to cancellation near 0, and may turn
  # negative: there its series, to a relative 3e-7 at 0.1.
  series = x * x * (0.5 + x * (1 / 6 + x * (1 / 24 + x / 120)))
  # `where` differentiates both; both are finite, |x| being at most 20.
  return jnp.where(jnp.abs(x) < 0.1, series, jnp.expm1(x) - x)


def k3_straight_through(difference: jax.Array) -> jax.Array:  # [P, G, I]
  """Returns the value of k3 with the gradient of k2; see `estimate`."""
  carrier = k2(difference)
  value = jax.lax.stop_gradient(k3(difference))
  # The difference is 0 in value, and all of the gradient.
  return value + (carrier - jax.lax.stop_gradient(carrier))


KLS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
  "k2": k2,
  "k3": k3,
  "k3_straight_through": k3_straight_through,
}


def estimate(
  name: str,
  logprobs: jax.Array,  # [P, G, I]
  ref_logprobs: jax.Array,  # [P, G, I]
) -> jax.Array:
  """Returns KL(policy || reference) of each code given those before, estimated.

  With d = logprobs - ref_logprobs, of codes sampled from the policy:

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
    ref_logprobs: [P, G, I] under the reference; a constant.

  Returns:
    [P, G, I] float32.

  Raises:
    UserError: an unknown name.
  """
  return lookup("kl", KLS, name)(difference(logprobs, ref_logprobs))
