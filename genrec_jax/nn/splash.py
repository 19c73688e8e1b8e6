"""Attention on TPUs: the splash kernel of JAX, which stores no scores.

Letters as in `attention`. Source of the kernel: arXiv 2205.14135 (flash
attention), with blocks skipped that a mask leaves empty.
"""

import functools
from typing import Any

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as kernels,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask as masks,
)
import jax.numpy as jnp
import numpy as np

# Queries and keys of a block: what fits a core's own memory with both passes.
BLOCK = 512
# A TPU's: blocks must be multiples.
_LANES = 128


class _Shared(masks._ComputableMask):
  """Causal, and of the answers each sees the prompt and itself alone."""

  def __init__(self, size: int, prompt: int, answer: int):
    """Takes the number of all tokens, of a prompt's and of an answer's."""
    self.key = (size, prompt, answer)

    def seen(query: Any, key: Any) -> Any:
      # Of tokens before the prompt's end the number of the answer is below 0,
      # and not looked at.
      numbers = ((x - prompt) // max(answer, 1) for x in (query, key))
      query_answer, key_answer = numbers
      same = (key < prompt) | (query_answer == key_answer)
      return (key <= query) & same

    super().__init__((size, size), seen)

  def __eq__(self, other: object) -> bool:
    """Equal masks are processed once."""
    return isinstance(other, _Shared) and self.key == other.key

  def __hash__(self) -> int:
    return hash(self.key)


def attend_shared(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  real: jax.Array,
  prompt: int,
  num_samples: int,
  *,
  name: str | None = None,
  block: int = BLOCK,
  interpret: bool = False,
) -> jax.Array:
  """Returns what `attention.attend_shared` does, on one device.

  Args:
    q: [P, K, 1, R, N, H].
    k: [P, K, 1, N, H].
    v: as `k`.
    real: bool [P, N], True = a real token.
    prompt: T.
    num_samples: G.
    name: of the results in policies of `jax.checkpoint`.
    block: queries and keys of a block.
    interpret: run the kernel where there is no TPU, slowly.
  """
  p, kv, _, r, n, h = q.shape
  answer = (n - prompt) // num_samples if num_samples else 0
  block = min(block, -(-n // _LANES) * _LANES)
  fill = -n % block
  kernel = _kernel(n + fill, prompt, answer, kv * r, block, name, interpret)
  # A real token sees real ones; padding, and what fills the last block, sees
  # itself: no row of the softmax is empty.
  segments = jnp.pad(real.astype(jnp.int32), ((0, 0), (0, fill)))  # [P, N']

  def rows(x: jax.Array) -> jax.Array:
    """Returns [P, heads, N', H]."""
    x = x.reshape(p, -1, n, h)
    return jnp.pad(x, ((0, 0), (0, 0), (0, fill), (0, 0)))

  scaled = (q.astype(jnp.float32) * h**-0.5).astype(q.dtype)

  def attend(q, k, v, ids):
    return kernel(q, k, v, segment_ids=kernels.SegmentIds(q=ids, kv=ids))

  # Named for `analysis.hlo_kernels`, as no compiler tells a kernel's cost.
  pairs = np.count_nonzero(kernel.fwd_mask_info.block_mask[0])
  with jax.named_scope(f"splash_{pairs}x{block}"):
    out = jax.vmap(attend)(rows(scaled), rows(k), rows(v), segments)
  return out[:, :, :n].reshape(q.shape)


@functools.lru_cache(maxsize=8)
def _kernel(
  size: int,
  prompt: int,
  answer: int,
  heads: int,
  block: int,
  name: str | None,
  interpret: bool,
) -> Any:
  """Returns the kernel of a mask; to make one looks at all of its blocks."""
  sizes = kernels.BlockSizes(
    block_q=block,
    block_kv=block,
    block_kv_compute=block,
    block_q_dkv=block,
    block_kv_dkv=block,
    block_kv_dkv_compute=block,
    use_fused_bwd_kernel=True,
  )
  with jax.ensure_compile_time_eval():
    made = kernels.make_splash_mha(
      masks.MultiHeadMask([_Shared(size, prompt, answer)] * heads),
      block_sizes=sizes,
      head_shards=1,
      q_seq_shards=1,
      residual_checkpoint_name=name,
      interpret=interpret,
    )
  # numpy's, which belong to no device and to no trace.
  return jax.tree.map(np.asarray, made)
