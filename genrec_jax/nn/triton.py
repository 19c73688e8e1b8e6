"""Attention of a token to its answer's cache on GPUs: JAX's Triton kernel.

Letters as in `attention`.
"""

import jax
from jax.experimental.pallas.ops.gpu import decode_attention
import jax.numpy as jnp

# Keys of a block: the most of these of which a cache is a multiple.
_BLOCKS = (64, 32, 16)


def takes(shape: tuple[int, ...]) -> bool:
  """Returns whether a cache [..., S, H] is whole blocks, of heads measured."""
  return shape[-2] % _BLOCKS[-1] == 0 and shape[-1] == 128


def attend_own(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  filled: jax.Array,
  *,
  interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Attends to the tokens that a cache holds, and reads no others.

  Args:
    q: [P, K, G, R, 1, H].
    k: a cache, [P, K, G, S, H]; see `takes`.
    v: as `k`.
    filled: [] int32, the first so many of the S are there.
    interpret: run the kernel where there is no GPU, slowly.

  Returns:
    What a softmax over more keys is made of, float32: the values' sum, weighted
    by exp(score - peak) [P, K, G, R, 1, H]; the weights' sum and the peak,
    [P, K, G, R, 1, 1].
  """
  *rows, r, _, h = q.shape
  s = k.shape[-2]
  out, (total, peak) = decode_attention.mqa(
    q.reshape(-1, r, h),
    k.reshape(-1, s, h),
    v.reshape(-1, s, h),
    kv_seq_len=filled,
    block_k=next(block for block in _BLOCKS if s % block == 0),
    k_splits=1,  # of a short cache parts are more to join than to gain
    return_residuals=True,
    normalize_output=False,
    interpret=interpret,
  )
  return (
    out.astype(jnp.float32).reshape(q.shape),
    total.reshape(*rows, r, 1, 1),
    peak.reshape(*rows, r, 1, 1),
  )
