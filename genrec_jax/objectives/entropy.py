"""Entropy bonus: what a policy lacks of the entropy that it should keep.

Letters: P prompts, G samples per prompt, I codes per image.
"""

import jax
import jax.numpy as jnp

from genrec_jax.groups import at_least_float32


def shortfall(entropy: jax.Array, target: float) -> jax.Array:
  """Returns the mean over prompts of max(target - entropy, 0): [].

  A bonus that stops where it is no longer needed: each prompt whose codes have
  less than `target` nats of entropy on average is pulled up, the others are
  left alone. Prompts add up, so microbatches change nothing.

  The gradient is that of each code's own distribution, given the codes before
  it; what a code does to the entropy of later ones is left out, as is usual.

  Args:
    entropy: [P, G, I] in nats, of the distribution that is scored.
    target: in nats; more than log C, C the codebook, acts at all times.
  """
  of_prompts = at_least_float32(entropy).mean((1, 2))  # [P]
  return jnp.maximum(target - of_prompts, 0.0).mean()
