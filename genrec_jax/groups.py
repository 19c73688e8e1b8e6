"""Groups: statistics of values [P, G] within the G samples of each prompt.

Computed in float32 or wider, whatever the inputs. Letters: P prompts, G samples
per prompt, I tokens of a sample.
"""

import jax
import jax.numpy as jnp

# A spread of rewards below this is rounding (about 16 units in the last place
# of 1.0 in float32): cosines and weights are of order one, and two samples of
# the same image may differ by a few units.
_ROUNDING = 2e-6

# The smallest deviation of a group that rewards are divided by, in cosines.
# Without a floor the smallest difference counts as much as the greatest: an
# image whose similarity is 1e-5 above the copy threshold is punished like a
# copy. bfloat16 rounds cosines by up to 0.004, so what is below 0.01 may be
# mostly rounding; the samples of a prompt usually spread by more, the tiny
# model's by 0.15 to 0.23.
FLOOR = 0.01


def at_least_float32(x: jax.Array) -> jax.Array:
  """Returns x as float32, or as it is where it is wider."""
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def mean_of_tokens(
  values: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
  """Returns the mean over samples of the mean over their tokens: [].

  Prompts add up, so microbatches change nothing.

  Args:
    values: [P, G, I], any float type.
    mask: [P, G, I] bool, True = a token of the sample, at least one of each;
      None: all are.
  """
  values = at_least_float32(values)
  if mask is None:
    return values.mean()
  counted = jnp.where(mask, values, 0.0).sum(-1) / mask.sum(-1)  # [P, G]
  return counted.mean()


def zero_spread(rewards: jax.Array) -> jax.Array:
  """Returns [P] bool: True where the rewards [P, G] of a group are equal.

  Equal means within the rounding of float32: max - min <= 2e-6 times the
  greater of 1 and the largest |reward|. A group holding nan or inf is not.
  """
  rewards = at_least_float32(rewards)
  spread = rewards.max(1) - rewards.min(1)  # [P]
  scale = jnp.maximum(1.0, jnp.abs(rewards).max(1))
  return jnp.isfinite(spread) & (spread <= _ROUNDING * scale)


def subtract_group_mean(rewards: jax.Array) -> jax.Array:
  """Subtracts each group's mean; exactly 0 where a group has no spread.

  Args:
    rewards: [P, G], any float type.

  Returns:
    [P, G] float32. A nan or inf is passed on, never turned into 0.
  """
  rewards = at_least_float32(rewards)
  # Shifting by one sample first is exact for close values, so equal rewards
  # leave exactly 0 whatever the rounding of their mean.
  shifted = rewards - rewards[:, :1]
  values = shifted - shifted.mean(1, keepdims=True)
  return jnp.where(zero_spread(rewards)[:, None], 0.0, values)


def deviation(rewards: jax.Array) -> jax.Array:
  """Returns each group's standard deviation: [P, G] -> [P, 1] float32.

  That of the population (divided by G). Exactly 0 where a group has no spread,
  see `subtract_group_mean`.
  """
  values = subtract_group_mean(rewards)
  return jnp.sqrt(jnp.mean(values * values, 1, keepdims=True))
