"""Layers of the Llama decoder: rotary attention, gated MLP, the block of both.

Letters: P prompts, G samples, T tokens, D width, F MLP width, N heads, K kv
heads, R = N / K, H head width.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from genrec_jax.nn import layers

if TYPE_CHECKING:
  from genrec_jax.models.llama import Llama

# Maps queries [P, K, G, R, T, H], keys and values [P, K, G, T, H] to what the
# queries attend to, shaped as they, and what is to be kept of keys and values.
Attend = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]
Rope = tuple[jax.Array, jax.Array]  # cosines and sines, [P, 1, T, 1, H] each


def rotary(
  positions: jax.Array, head_width: int, base: float
) -> tuple[jax.Array, jax.Array]:
  """Returns the cosines and sines [..., H] of positions [...]; float32.

  Source: arXiv 2104.09864, in the half-split order of transformers.
  """
  exponents = jnp.arange(0, head_width, 2, dtype=jnp.float32) / head_width
  angles = positions.astype(jnp.float32)[..., None] * jnp.reshape(
    base**-exponents, (1,) * positions.ndim + (-1,)
  )
  angles = jnp.concatenate([angles, angles], -1)
  return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Rotates [..., H] by angles of the same rank; float32 inside."""
  h = x.astype(jnp.float32)
  low, high = jnp.split(h, 2, -1)
  return (h * cos + jnp.concatenate([-high, low], -1) * sin).astype(x.dtype)


class Attention(nn.Module):
  """Self-attention; the caller passes `attend`, which fixes mask and cache."""

  config: "Llama"

  @nn.compact
  def __call__(
    self, x: jax.Array, rope: Rope, attend: Attend
  ) -> tuple[jax.Array, Any]:
    """Maps [P, G, T, D] to the same shape; see `Block`."""
    c = self.config
    p, g, t, _ = x.shape
    cos, sin = rope

    def project(heads, name):
      """Returns [P, G, T, heads, H]."""
      dense = layers.Linear(heads * c.head_width, c.dtype, False, name=name)
      return dense(x).reshape(p, g, t, heads, c.head_width)

    q = rotate(project(c.num_heads, "q_proj"), cos, sin)
    q = q.reshape(p, g, t, c.num_kv_heads, -1, c.head_width)
    q = q.transpose(0, 3, 1, 4, 2, 5)  # [P, K, G, R, T, H]
    k = rotate(project(c.num_kv_heads, "k_proj"), cos, sin)
    k = k.transpose(0, 3, 1, 2, 4)  # [P, K, G, T, H]
    v = project(c.num_kv_heads, "v_proj").transpose(0, 3, 1, 2, 4)
    out, kept = attend(q, k, v)  # [P, K, G, R, T, H]
    out = out.transpose(0, 2, 4, 1, 3, 5).reshape(p, g, t, -1)  # [P, G, T, N H]
    dense = layers.Linear(c.width, c.dtype, False, name="o_proj")
    return dense(out), kept


class GatedMLP(nn.Module):
  """SwiGLU; arXiv 2002.05202."""

  config: "Llama"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [..., D] to the same shape."""
    c = self.config

    def dense(width, name):
      return layers.Linear(width, c.dtype, False, name=name)

    h = nn.silu(dense(c.mlp_width, "gate_proj")(x))  # [..., F]
    h *= dense(c.mlp_width, "up_proj")(x)
    return dense(c.width, "down_proj")(h)


class Block(nn.Module):
  """One decoder layer."""

  config: "Llama"

  @nn.compact
  def __call__(
    self, x: jax.Array, rope: Rope, attend: Attend
  ) -> tuple[jax.Array, Any]:
    """Runs the layer.

    Args:
      x: [P, G, T, D].
      rope: of the positions, the same for all samples.
      attend: attention itself; see `Attend`.

    Returns:
      [P, G, T, D], and what `attend` keeps.
    """
    c = self.config
    norm = layers.RMSNorm(c.norm_epsilon, c.dtype, name="input_layernorm")
    h, kept = Attention(c, name="self_attn")(norm(x), rope, attend)
    x += h
    norm = layers.RMSNorm(
      c.norm_epsilon, c.dtype, name="post_attention_layernorm"
    )
    return x + GatedMLP(c, name="mlp")(norm(x)), kept
