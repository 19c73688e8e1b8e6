"""Transformer encoder layer of the SigLIP, CLIP and DINOv2 towers.

Letters: B rows, T positions, D width.
"""

from flax import linen as nn
import jax

from genrec_jax.nn import attention, layers


class MLP(nn.Module):
  """Two linear layers with an activation between."""

  width: int  # of the hidden layer
  activation: str
  dtype: str
  # The first layer has a second half, by which the activated one is multiplied
  # (SwiGLU with silu, arXiv 2002.05202).
  gated: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [..., D] to the same shape."""
    activate = layers.ACTIVATIONS[self.activation]
    width = self.width * (2 if self.gated else 1)
    h = layers.Linear(width, self.dtype, name="fc1")(x)
    if self.gated:
      h = activate(h[..., : self.width]) * h[..., self.width :]
    else:
      h = activate(h)
    return layers.Linear(x.shape[-1], self.dtype, name="fc2")(h)


class SelfAttention(nn.Module):
  """Multi-head self-attention, each head with keys of its own."""

  num_heads: int
  dtype: str
  qkv_bias: bool
  output_name: str  # of the projection after attention

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Maps [B, T, D] to the same shape; see `EncoderBlock`."""
    width = x.shape[-1]
    q, k, v = (  # [B, T, D] each
      layers.Linear(width, self.dtype, self.qkv_bias, name=name)(x)
      for name in ("q_proj", "k_proj", "v_proj")
    )
    h = attention.self_attention(q, k, v, self.num_heads, mask)
    return layers.Linear(width, self.dtype, name=self.output_name)(h)


class EncoderBlock(nn.Module):
  """Pre-norm layer: self-attention, then an MLP, each added to its input."""

  mlp_width: int
  num_heads: int
  activation: str
  norm_epsilon: float
  dtype: str
  qkv_bias: bool = True
  # Parameters keep the names of transformers, which differ here between towers.
  output_name: str = "out_proj"
  # What is added is first multiplied by a learned vector (arXiv 2103.17239).
  layer_scale: bool = False
  gated: bool = False  # see `MLP`

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Runs the layer.

    Args:
      x: [B, T, D].
      mask: bool [B, T, T] or [1, T, T], True = may attend; None masks nothing.

    Returns:
      [B, T, D].
    """

    def norm(name):
      return layers.layer_norm(self.norm_epsilon, self.dtype, name)

    attend = SelfAttention(
      self.num_heads,
      self.dtype,
      self.qkv_bias,
      self.output_name,
      name="self_attn",
    )
    mlp = MLP(
      self.mlp_width, self.activation, self.dtype, self.gated, name="mlp"
    )
    x += self._scale("layer_scale1", attend(norm("layer_norm1")(x), mask))
    return x + self._scale("layer_scale2", mlp(norm("layer_norm2")(x)))

  def _scale(self, name: str, x: jax.Array) -> jax.Array:
    if not self.layer_scale:
      return x
    scale = self.param(name, nn.initializers.ones, x.shape[-1:])
    return x * scale.astype(self.dtype).reshape(1, 1, -1)
