"""Attention on NVIDIA GPUs: cuDNN's flash attention, which stores no scores.

Letters as in `attention`; N = K R heads.
"""

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

  The prefix's keys are repeated for every sample, in one layer at a time: one
  softmax over prefix and own keys, whose gradient cuDNN has. (Two calls joined
  by their log-sum-exps would have a wrong one, as JAX differentiates no
  log-sum-exp.)
  """
  p, kv, _, r, n, h = q.shape
  t = prompt
  heads = q[:, :, 0].reshape(p, kv * r, n, h).swapaxes(1, 2)  # [P, N, K R, H]
  keys, values = (x[:, :, 0].swapaxes(1, 2) for x in (k, v))  # [P, N, K, H]
  out = _attend(
    heads[:, :t],
    keys[:, :t],
    values[:, :t],
    _causal(t) & real[:, None, None, :t],  # [P, 1, T, T]
  )
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


def _causal(length: int) -> jax.Array:
  return jnp.tri(length, dtype=bool)[None, None]


def _attend(
  q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array
) -> jax.Array:
  """Attends: [B, T, N, H] to [B, S, K, H], mask [B, 1, T, S]."""
  t, s = mask.shape[2:]
  # With a mask cuDNN differentiates even lengths only: what is added is neither
  # seen nor kept.
  q, k, v = (
    jnp.pad(x, [(0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)]) for x in (q, k, v)
  )
  mask = jnp.pad(mask, [(0, 0), (0, 0), (0, t % 2), (0, s % 2)])
  return jax.nn.dot_product_attention(
    q, k, v, mask=mask, implementation="cudnn"
  )[:, :t]
