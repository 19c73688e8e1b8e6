"""Attention, and attention of many answers to the one prefix they share.

Letters: P prompts, G samples per prompt, T query, S key, K kv heads, R query
heads per kv head (N = K R), H head width. Products are batched over (P, K) or
(P, K, G) only, everything else being rows of one large matrix: many tiny
products are slow on every backend.
"""

import functools

import jax
import jax.numpy as jnp

# Finite: a row with every key masked must not become NaN, even if unused.
_MASKED = -1e30
# Queries that attend at a time, about: the scores of all 3,000 tokens of a
# prompt would fill a device.
_BLOCK = 256


def _scores(q: jax.Array, k: jax.Array) -> jax.Array:
  """Returns scaled products of [..., M, H] and [..., S, H]: [..., M, S]."""
  scores = jnp.einsum(
    "...mh,...sh->...ms", q, k, preferred_element_type=jnp.float32
  )
  return scores * q.shape[-1] ** -0.5


def _mix(weights: jax.Array, v: jax.Array) -> jax.Array:
  """Returns the products of [..., M, S] and [..., S, H]: [..., M, H]."""
  return jnp.einsum(
    "...ms,...sh->...mh",
    weights.astype(v.dtype),
    v,
    preferred_element_type=jnp.float32,
  )


def attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  mask: jax.Array | None = None,
  prefix: tuple[jax.Array, jax.Array, jax.Array] | None = None,
) -> jax.Array:
  """Attends to own keys and, in the same softmax, to a shared prefix.

  With a prefix this equals attention to [prefix, own] concatenated, with the
  prefix repeated for every sample; it is never repeated.

  Args:
    q: [P, K, G, R, T, H].
    k: own keys [P, K, G, S, H].
    v: own values, as `k`.
    mask: bool, True = may attend; broadcastable to [P, K, G, R, T, S].
    prefix: keys [P, K, S', H], values as keys, and mask [P, S'].

  Returns:
    [P, K, G, R, T, H] in the type of `q`; the softmax is float32.
  """
  t = q.shape[-2]
  blocks = -(-t // _BLOCK)
  if blocks == 1:
    return _attend(q, k, v, mask, prefix)
  size = -(-t // blocks)

  def split(x):
    ends = [(0, 0)] * x.ndim
    ends[-2] = (0, blocks * size - t)
    x = jnp.pad(x, ends)
    return jnp.moveaxis(
      x.reshape(*x.shape[:-2], blocks, size, x.shape[-1]), -3, 0
    )

  if mask is None or mask.shape[-2] == 1:
    out = jax.lax.map(lambda q: _attend(q, k, v, mask, prefix), split(q))
  else:
    out = jax.lax.map(
      lambda part: _attend(part[0], k, v, part[1], prefix),
      (split(q), split(mask)),
    )
  out = jnp.moveaxis(out, 0, -3)
  return out.reshape(*q.shape[:-2], -1, q.shape[-1])[..., :t, :]


# The backward pass computes the weights again, whatever the layers' remat
# policy: at T x S per head they are the largest arrays by far, and to store
# and reload them took longer than to recompute them. The callers are scans,
# which keep the two computations apart.
@functools.partial(jax.checkpoint, prevent_cse=False)
def _attend(q, k, v, mask, prefix):
  """Attends with all queries at once; see `attend`."""
  p, kv, g, r, t, h = q.shape
  own = _scores(q.reshape(p, kv, g, r * t, h), k).reshape(p, kv, g, r, t, -1)
  if mask is not None:
    own = jnp.where(mask, own, _MASKED)
  peak = jnp.max(own, -1, keepdims=True)
  if prefix is not None:
    keys, values, seen = prefix
    far = _scores(q.reshape(p, kv, g * r * t, h), keys)
    far = jnp.where(seen[:, None, None, :], far, _MASKED)
    far = far.reshape(p, kv, g, r, t, -1)
    peak = jnp.maximum(peak, jnp.max(far, -1, keepdims=True))
  peak = jax.lax.stop_gradient(peak)
  weights = jnp.exp(own - peak)
  total = jnp.sum(weights, -1, keepdims=True)
  out = _mix(weights.reshape(p, kv, g, r * t, -1), v).reshape(q.shape)
  if prefix is not None:
    weights = jnp.exp(far - peak)
    total += jnp.sum(weights, -1, keepdims=True)
    out += _mix(weights.reshape(p, kv, g * r * t, -1), values).reshape(q.shape)
  return (out / total).astype(q.dtype)


def self_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  num_heads: int,
  mask: jax.Array | None = None,
) -> jax.Array:
  """Attends within each row, all heads with keys of their own.

  Args:
    q: [B, T, D], D = N H.
    k: [B, T, D].
    v: [B, T, D].
    num_heads: N.
    mask: bool [B, T, T] or [1, T, T], True = may attend.

  Returns:
    [B, T, D].
  """
  batch, length, width = q.shape

  def heads(x):
    return x.reshape(batch, length, num_heads, -1).transpose(0, 2, 1, 3)

  out = attend(
    heads(q)[:, :, None, None],
    heads(k)[:, :, None],
    heads(v)[:, :, None],
    None if mask is None else mask[:, None, None, None],
  )
  return out[:, :, 0, 0].transpose(0, 2, 1, 3).reshape(batch, length, width)
