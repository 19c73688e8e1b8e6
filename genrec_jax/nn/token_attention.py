"""Attention of one token of each answer, as decode loops have it.

Answers attend to their own cache and to the prefix that they share. Letters as
in `attention`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from genrec_jax.core import sharding
from genrec_jax.nn import attention, int8

# Attends to caches, as `triton.attend_own`.
Own = Callable[..., tuple[jax.Array, jax.Array, jax.Array]]


def attend(
  q: jax.Array,
  k: int8.Stored,
  v: int8.Stored,
  mask: jax.Array,
  prefix: attention.SharedPrefix,
  *,
  filled: jax.Array | None = None,
  unread: int = 0,
) -> jax.Array:
  """Attends to caches and to prefixes, by a kernel where there is one.

  Args:
    q: [P, K, G, R, 1, H].
    k: the cache of the answers' own keys, [P, K, G, S, H].
    v: the cache of their values, as `k`.
    mask: bool, True = may attend; broadcastable to [P, K, G, R, 1, S].
    prefix: see `attention.attend`.
    filled: [] int32, where `mask` shows the first so many of the cache, and all
      samples see one prefix; None: elsewhere.
    unread: tokens at the end of the cache that are empty still.

  Returns:
    [P, K, G, R, 1, H] in the type of `q`; the softmax is float32.
  """
  own = _kernel(q, k)
  if own and filled is not None:
    return _joined(q, *own(q, k, v, filled), prefix)
  if reads_parts() and unread:
    length = k.shape[-2] - unread
    mask, k, v = mask[..., :length], int8.upto(k, length), int8.upto(v, length)
  if isinstance(prefix[0], int8.Vectors):
    # Else XLA widens it once, before the loop, which then reads that.
    q, prefix = jax.lax.optimization_barrier((q, prefix))
  return attention.attend(q, k, v, mask, prefix)


def reads_parts() -> bool:
  """Returns whether products with a part of a cache read that part alone.

  XLA's CPU compiler copies a part of an array before it multiplies it.
  """
  return sharding.platform() != "cpu"


def shares_branches() -> bool:
  """Returns whether a prefix that one branch of guidance shares saves time.

  Each branch then has products of its own. On a GPU to launch them took more
  than what is read less: 5.1 seconds of a rollout of four prompts, for 3.9.
  """
  return sharding.platform() not in sharding.GPUS


def _kernel(q: jax.Array, k: int8.Stored) -> Own | None:
  """Returns the device's kernel for such queries and caches, if there is one.

  XLA computes products of one row each, which answers' own keys make, at a
  quarter of the rate of a GPU's memory.
  """
  narrow = q.dtype in (jnp.bfloat16, jnp.float16)
  if sharding.platform() not in sharding.GPUS or not narrow:
    return None
  if isinstance(k, int8.Vectors):
    return None
  from genrec_jax.nn import triton

  mesh = jax.sharding.get_abstract_mesh()
  # A kernel has whole heads; devices may be more than those of the keys.
  whole = q.shape[1] % mesh.shape.get("model", 1) == 0
  if not whole or not triton.takes(k.shape):
    return None
  if mesh.empty:
    return triton.attend_own
  # XLA cannot split a kernel: each device runs it on its answers and heads.
  rows = PartitionSpec(sharding.BATCH[0], "model")
  return jax.shard_map(
    triton.attend_own,
    in_specs=(rows, rows, rows, PartitionSpec()),
    out_specs=rows,
    check_vma=False,  # a kernel does not say how its results vary
  )


def _joined(
  q: jax.Array,
  own: jax.Array,
  total: jax.Array,
  peak: jax.Array,
  prefix: attention.SharedPrefix,
) -> jax.Array:
  """Adds a prefix, its mask [P, S'], to what `triton.attend_own` gives.

  One softmax over both, as `attention.attend` has it.
  """
  p, kv, *_, h = q.shape
  keys, values, seen = prefix
  # Queries of all samples are rows of one product: [P, K, G R, ...].
  scores = attention.scores(q.reshape(p, kv, -1, h), keys, "hs")
  scores = jnp.where(seen[:, None, None, :], scores, attention.MASKED)
  peak, total = peak.reshape(p, kv, -1, 1), total.reshape(p, kv, -1, 1)
  most = jnp.maximum(peak, jnp.max(scores, -1, keepdims=True))
  weights, scale = jnp.exp(scores - most), jnp.exp(peak - most)
  out = own.reshape(p, kv, -1, h) * scale + attention.mix(weights, values)
  total = total * scale + jnp.sum(weights, -1, keepdims=True)
  return (out / total).reshape(q.shape).astype(q.dtype)
