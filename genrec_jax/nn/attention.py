"""Attention, also of many answers to the one prefix that they share.

Letters: P prompts, G samples per prompt, T query, S key, K kv heads, R query
heads per kv head (N = K R), H head width. Products are batched over (P, K) or
(P, K, G) only, everything else being rows of one large matrix: many tiny
products are slow on every backend.
"""

from collections.abc import Callable
import functools

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from genrec_jax.core import sharding
from genrec_jax.core.chunks import map_chunks
from genrec_jax.nn import int8

# Name of attention's results in policies of `jax.checkpoint`.
ATTENTION_OUTPUT = "attended"
# Finite: a row with every key masked must not become NaN, even if unused.
MASKED = -1e30
# Queries per block, about: the scores of all 3,000 tokens of a prompt would
# fill a device.
_BLOCK = 256
# Number of causal segments; each skips the keys after it, so 4 segments compute
# 5/8 of all pairs. More would make larger programs.
_SEGMENTS = 4

# Keys [P, K, H, S'] or [P, K, S', H], values [P, K, S', H] and mask [P, S'], or
# [P, G, S'] where samples see parts of their own.
SharedPrefix = tuple[int8.Stored, int8.Stored, jax.Array]


def scores(q: jax.Array, k: int8.Stored, axes: str = "sh") -> jax.Array:
  """Returns scaled products [..., M, S] of [..., M, H] and keys [..., `axes`].

  In float32 whatever the inputs: a softmax follows.
  """
  scale: jax.Array | float = q.shape[-1] ** -0.5
  if isinstance(k, int8.Vectors):
    # Each key's scale belongs to its products.
    scale *= k.scale[..., None, :]
    k = k.wide
  products = jnp.einsum(
    f"...mh,...{axes}->...ms", q, k, preferred_element_type=jnp.float32
  )
  return products * scale


def mix(weights: jax.Array, v: int8.Stored) -> jax.Array:
  """Returns the products of [..., M, S] and [..., S, H]: [..., M, H]."""
  if isinstance(v, int8.Vectors):
    # Each value's scale belongs to its weight as well.
    weights, v = weights * v.scale[..., None, :], v.wide
  return jnp.einsum(
    "...ms,...sh->...mh",
    weights.astype(v.dtype),
    v,
    preferred_element_type=jnp.float32,
  )


def attend(
  q: jax.Array,
  k: int8.Stored,
  v: int8.Stored,
  mask: jax.Array | None = None,
  prefix: SharedPrefix | None = None,
  *,
  causal: bool = False,
) -> jax.Array:
  """Attends to own keys and, in the same softmax, to a shared prefix.

  With a prefix this equals attention to [prefix, own] concatenated, with the
  prefix repeated for every sample; it is never repeated.

  Args:
    q: [P, K, G, R, T, H].
    k: own keys [P, K, G, S, H].
    v: own values, as `k`.
    mask: bool, True = may attend; broadcastable to [P, K, G, R, T, S], where
      causal to [P, K, G, R, 1, S].
    prefix: keys [P, K, H, S'], transposed, as a decode loop's few queries read
      them faster on CPU; values [P, K, S', H] and mask [P, S'] or [P, G, S'].
    causal: query t may attend to own keys up to t only; S = T.

  Returns:
    [P, K, G, R, T, H] in the type of `q`; the softmax is float32.
  """
  if not causal:
    return checkpoint_name(_in_blocks(q, k, v, mask, prefix), ATTENTION_OUTPUT)
  t = q.shape[-2]
  # A short row is one segment: it has no more than a block of queries.
  size = -(-t // min(_SEGMENTS, -(-t // _BLOCK)))
  out = []
  for start in range(0, t, size):
    stop = min(start + size, t)
    # [1, 1, 1, 1, t, s], t of this segment and s up to its end.
    seen = jnp.tri(stop - start, stop, start, dtype=bool)[(None,) * 4]
    if mask is not None:
      seen &= mask[..., :stop]
    own = int8.upto(k, stop), int8.upto(v, stop)
    out.append(_in_blocks(q[..., start:stop, :], *own, seen, prefix))
  return checkpoint_name(jnp.concatenate(out, -2), ATTENTION_OUTPUT)


def attend_shared(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  mask: jax.Array,
  num_samples: int,
  answer_mask: jax.Array | None = None,
) -> jax.Array:
  """Attends causally within prompts, and from answers to the one they share.

  By a kernel of the device that keeps scores on the core, where there is one
  for such heads: splash on TPUs, cuDNN on NVIDIA's GPUs. Elsewhere in blocks of
  queries.

  Args:
    q: [P, K, 1, R, N, H], N = T + G I: a prompt's tokens, and after them those
      of its answers, one answer after another.
    k: [P, K, 1, N, H].
    v: [P, K, 1, N, H].
    mask: bool [P, T], True = a real token of the prompt; left-padded.
    num_samples: G; 0: prompts alone, N = T.
    answer_mask: bool [P, G, I], True = a real token of an answer; None: all.

  Returns:
    [P, K, 1, R, N, H]. What padding attends to is not defined, but finite: a
    NaN would reach losses and gradients, whatever masks come after.
  """
  mesh = jax.sharding.get_abstract_mesh()
  attend = _kernel(sharding.platform(), q)
  # A kernel has whole heads; devices may be more than those of the keys.
  if attend is None or q.shape[1] % mesh.shape.get("model", 1):
    return _shared_in_blocks(q, k, v, mask, num_samples, answer_mask)
  p, t, n = *mask.shape, q.shape[-2]
  if answer_mask is None:
    real = jnp.pad(mask, ((0, 0), (0, n - t)), constant_values=True)
  else:
    real = jnp.concatenate([mask, answer_mask.reshape(p, -1)], 1)  # [P, N]
  if num_samples == 1 and answer_mask is None:
    # An answer by itself goes on where its prompt ends: as a longer prompt.
    t, num_samples = n, 0

  def kernel(q, k, v, real):
    out = attend(q, k, v, real, t, num_samples)
    return checkpoint_name(out, ATTENTION_OUTPUT)

  if mesh.empty:
    return kernel(q, k, v, real)
  # XLA cannot split a kernel: each device runs it on its prompts and heads.
  rows = PartitionSpec(sharding.BATCH[0], "model")
  return jax.shard_map(
    kernel,
    in_specs=(rows, rows, rows, sharding.BATCH),
    out_specs=rows,
    check_vma=False,  # a kernel does not say how its results vary
  )(q, k, v, real)


def _kernel(platform: str, q: jax.Array) -> Callable[..., jax.Array] | None:
  """Returns what attends to queries [..., H] as fast as the device can."""
  # Imported here, not at the top: Pallas takes a second, and most need none.
  if platform == "tpu" and q.shape[-1] % 128 == 0:  # a TPU's lanes
    from genrec_jax.nn import splash

    return functools.partial(splash.attend_shared, name=ATTENTION_OUTPUT)
  narrow = q.dtype in (jnp.bfloat16, jnp.float16)
  if platform in sharding.GPUS and narrow and q.shape[-1] in (64, 128):
    from genrec_jax.nn import cudnn

    return cudnn.attend_shared
  return None


def _shared_in_blocks(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  mask: jax.Array,
  num_samples: int,
  answer_mask: jax.Array | None = None,
) -> jax.Array:
  """Returns what `attend_shared` does, by products and a softmax."""
  t = mask.shape[-1]
  prompt = attend(
    q[..., :t, :],
    k[..., :t, :],
    v[..., :t, :],
    mask[:, None, None, None, None],
    causal=True,
  )  # [P, K, 1, R, T, H]
  if not num_samples:
    return prompt
  p, kv, _, r, n, h = q.shape
  rows = (num_samples, (n - t) // num_samples, h)  # G, I, H
  answers = attend(
    q[..., t:, :].reshape(p, kv, r, *rows).swapaxes(2, 3),
    k[..., t:, :].reshape(p, kv, *rows),
    v[..., t:, :].reshape(p, kv, *rows),
    None if answer_mask is None else answer_mask[:, None, :, None, None],
    prefix=(k[:, :, 0, :t].swapaxes(2, 3), v[:, :, 0, :t], mask),
    causal=True,
  )  # [P, K, G, R, I, H]
  answers = answers.swapaxes(2, 3).reshape(p, kv, 1, r, n - t, h)
  return jnp.concatenate([prompt, answers], -2)


def _in_blocks(
  q: jax.Array,
  k: int8.Stored,
  v: int8.Stored,
  mask: jax.Array | None,
  prefix: SharedPrefix | None,
) -> jax.Array:
  """Attends with about `_BLOCK` queries at a time; see `attend`."""
  t = q.shape[-2]
  blocks = -(-t // _BLOCK)
  if blocks == 1:
    return _attend(q, k, v, mask, prefix)
  # Blocks are equal: the last is filled with queries that are cut off again.
  fill = -t % blocks

  def padded(x):
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, fill), (0, 0)])

  if mask is None or mask.shape[-2] == 1:  # the same for all queries
    out = map_chunks(
      lambda q: _attend(q, k, v, mask, prefix), blocks, padded(q), axis=-2
    )
  else:
    out = map_chunks(
      lambda q, mask: _attend(q, k, v, mask, prefix),
      blocks,
      padded(q),
      padded(mask),
      axis=-2,
    )
  return out[..., :t, :]


# The backward pass computes the weights again, whatever the layers' remat
# policy: at T x S per head they are the largest arrays by far, and to store
# and reload them took longer than to recompute them. The callers are scans,
# which keep the two computations apart.
@functools.partial(jax.checkpoint, prevent_cse=False)
def _attend(
  q: jax.Array,
  k: int8.Stored,
  v: int8.Stored,
  mask: jax.Array | None,
  prefix: SharedPrefix | None,
) -> jax.Array:
  """Attends with all queries at once; see `attend`.

  One softmax over own keys and the prefix's without a copy that joins them:
  both are shifted by their common maximum and divided by their common sum.
  """
  p, kv, g, r, t, h = q.shape
  # Query heads of one kv head are rows of one product.
  own_scores = scores(q.reshape(p, kv, g, r * t, h), k).reshape(
    p, kv, g, r, t, -1
  )  # [P, K, G, R, T, S]
  if mask is not None:
    own_scores = jnp.where(mask, own_scores, MASKED)
  peak = jnp.max(own_scores, -1, keepdims=True)  # [P, K, G, R, T, 1]
  if prefix is not None:
    keys, values, seen = prefix
    # So are the queries of all samples, as they have the prefix in common.
    prefix_scores = scores(q.reshape(p, kv, g * r * t, h), keys, "hs")
    if seen.ndim == 2:
      prefix_scores = jnp.where(seen[:, None, None, :], prefix_scores, MASKED)
    prefix_scores = prefix_scores.reshape(p, kv, g, r, t, -1)  # [..., T, S']
    if seen.ndim == 3:
      own = seen[:, None, :, None, None]  # [P, K, G, R, T, S']
      prefix_scores = jnp.where(own, prefix_scores, MASKED)
    peak = jnp.maximum(peak, jnp.max(prefix_scores, -1, keepdims=True))
  # It cancels in the quotient: its gradient is zero, and rounding is not.
  peak = jax.lax.stop_gradient(peak)
  weights = jnp.exp(own_scores - peak)
  total = jnp.sum(weights, -1, keepdims=True)  # [P, K, G, R, T, 1]
  out = mix(weights.reshape(p, kv, g, r * t, -1), v).reshape(q.shape)
  if prefix is not None:
    weights = jnp.exp(prefix_scores - peak)
    total += jnp.sum(weights, -1, keepdims=True)
    out += mix(weights.reshape(p, kv, g * r * t, -1), values).reshape(q.shape)
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
    k: [B, S, D]; S is T but for queries that are not the keys' own.
    v: [B, S, D].
    num_heads: N.
    mask: bool [B, T, S] or [1, T, S], True = may attend.

  Returns:
    [B, T, D].
  """
  batch, length, width = q.shape

  def heads(x):
    """Splits [B, T, D] into [B, N, T, H]."""
    return x.reshape(batch, x.shape[1], num_heads, -1).transpose(0, 2, 1, 3)

  # Rows are prompts of one sample, and each head is a kv head of one query
  # head: G = R = 1.
  out = attend(
    heads(q)[:, :, None, None],
    heads(k)[:, :, None],
    heads(v)[:, :, None],
    None if mask is None else mask[:, None, None, None],
  )
  return out[:, :, 0, 0].transpose(0, 2, 1, 3).reshape(batch, length, width)
