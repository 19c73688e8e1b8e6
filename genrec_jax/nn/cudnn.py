"""Attention on NVIDIA GPUs: cuDNN's flash attention, which stores no scores.

Letters as in `attention`; N = K R heads.
"""

from typing import Any

import jax
import jax.numpy as jnp


def attend_shared(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  real: jax.Array,
  prompt: int,
  num_samples: int,
) -> jax.Array:
  """Returns what `attention.attend_shared` does, by cuDNN.

  Its arguments, but for `real`, bool [P, N], True = a real token, and T.

  A prompt's padding goes behind its end, where no real token sees it: without a
  mask cuDNN skips the pairs that are not causal. The prefix's keys are repeated
  for every sample, in one layer at a time: one softmax over prefix and own
  keys, whose gradient cuDNN has. (Two calls joined by their log-sum-exps would
  have a wrong one, as JAX differentiates no log-sum-exp.)
  """
  p, kv, _, r, n, h = q.shape
  t = prompt
  heads = q[:, :, 0].reshape(p, kv * r, n, h).swapaxes(1, 2)  # [P, N, K R, H]
  keys, values = (x[:, :, 0].swapaxes(1, 2) for x in (k, v))  # [P, N, K, H]
  padding = jnp.argmax(real, 1)  # [P], before the first real token
  prompts = [_rolled(_even(x[:, :t]), padding) for x in (heads, keys, values)]
  out = _rolled(_cudnn(*prompts, is_causal=True), -padding)[:, :t]
  if num_samples:
    length = (n - t) // num_samples  # I
    own = real[:, t:].reshape(p, num_samples, 1, length)
    prefix = real[:, None, None, :t]
    wide = (p, num_samples, length)
    seen = jnp.concatenate(
      [jnp.broadcast_to(prefix, (*wide, t)), _causal(length) & own], -1
    )  # [P, G, I, T + I]

    def joined(x):
      """Returns [P G, T + I, K, H]: the prefix before each sample's own."""
      own = x[:, t:].reshape(p, num_samples, length, kv, h)
      prefix = jnp.broadcast_to(x[:, None, :t], (p, num_samples, t, kv, h))
      return jnp.concatenate([prefix, own], 2).reshape(-1, t + length, kv, h)

    answers = _attend(
      heads[:, t:].reshape(-1, length, kv * r, h),
      joined(keys),
      joined(values),
      seen.reshape(-1, 1, length, t + length),
    )
    answers = answers.reshape(p, n - t, kv * r, h)
    out = jnp.concatenate([out, answers], 1)
  return out.swapaxes(1, 2).reshape(q.shape)


@jax.custom_vjp
def _rolled(x: jax.Array, by: jax.Array) -> jax.Array:
  """Moves the first `by` [P] tokens of each row of [P, T, N, H] to its end."""
  length = x.shape[1]
  places = (jnp.arange(length)[None] + by[:, None]) % length  # [P, T]
  return jnp.take_along_axis(x, places[..., None, None], 1)


# Rolling back: of a gather's own gradient, which adds up, XLA knows no such
# thing.
_rolled.defvjp(
  lambda x, by: (_rolled(x, by), by), lambda by, g: (_rolled(g, -by), None)
)


def _causal(length: int) -> jax.Array:
  return jnp.tri(length, dtype=bool)[None, None]


def _attend(
  q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array
) -> jax.Array:
  """Attends: [B, T, N, H] to [B, S, K, H], mask [B, 1, T, S]."""
  t, s = mask.shape[2:]
  mask = jnp.pad(mask, [(0, 0), (0, 0), (0, t % 2), (0, s % 2)])
  return _cudnn(*(_even(x) for x in (q, k, v)), mask=mask)[:, :t]


def _cudnn(
  q: jax.Array, k: jax.Array, v: jax.Array, **options: Any
) -> jax.Array:
  attend = jax.nn.dot_product_attention
  found: jax.Array = attend(q, k, v, implementation="cudnn", **options)
  return found


def _even(x: jax.Array) -> jax.Array:
  """Adds a token to rows of odd length [P, T, N, H], neither seen nor kept.

  cuDNN differentiates even lengths only.
  """
  return jnp.pad(x, [(0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)])
