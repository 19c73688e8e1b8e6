"""VQGAN image tokenizer of Janus: pixels <-> codes, NHWC throughout.

Same function as `JanusVQVAE` of transformers 5.23. Letters: B images, h w
pixels, h' w' codes per side, C codebook, E width of a codebook vector.
"""

import dataclasses
from typing import ClassVar

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from genrec_jax.core.types import PyTree
from genrec_jax.models.vqgan_layers import Conv1x1, Decoder, Encoder
from genrec_jax.nn import layers

# Replicated: frozen, small next to the language model and applied once per
# step, so a copy on every device costs less than gathering it.
RULES = (
  (r"quantizer/embedding", P()),
  (r"(en|de)coder/\w+(/\w+)*/kernel", P()),
  (r"(en|de)coder/\w+(/\w+)*/scale", P()),
  (r"(en|de)coder/\w+(/\w+)*/bias", P()),
  (r"(post_)?quant_conv/(kernel|bias)", P()),
)


@dataclasses.dataclass(frozen=True)
class VQGAN:
  """Static configuration and the functions of the image tokenizer.

  Field names and defaults are those of `JanusVQVAEConfig` (Janus-Pro).
  Channel counts must be multiples of 32, the number of norm groups.
  """

  embed_dim: int = 8
  num_embeddings: int = 16384
  latent_channels: int = 256
  in_channels: int = 3
  out_channels: int = 3
  base_channels: int = 128
  channel_multiplier: tuple[int, ...] = (1, 1, 2, 2, 4)
  num_res_blocks: int = 2
  dtype: str = "float32"
  l2_norm: bool = True  # see `quantize`

  dense: ClassVar = Conv1x1  # projections of the attention

  @property
  def downsampling(self) -> int:
    """Pixels per code, along each side."""
    return 2 ** (len(self.channel_multiplier) - 1)

  def init(self, key: jax.Array) -> PyTree:
    """Returns random float32 parameters."""
    keys = jax.random.split(key, 5)
    size = self.downsampling
    pixels = jnp.zeros((1, size, size, self.in_channels))
    latents = jnp.zeros((1, 1, 1, self.latent_channels))
    codes = jnp.zeros((1, 1, 1, self.embed_dim))
    codebook = jax.random.normal(keys[4], (self.num_embeddings, self.embed_dim))
    codebook /= jnp.linalg.norm(codebook, axis=-1, keepdims=True)
    return {
      "encoder": Encoder(self).init(keys[0], pixels)["params"],
      "quant_conv": self._quant_conv().init(keys[1], latents)["params"],
      "quantizer": {"embedding": codebook},
      "post_quant_conv": self._post_conv().init(keys[2], codes)["params"],
      "decoder": Decoder(self).init(keys[3], latents)["params"],
    }

  def latents(self, params: PyTree, pixels: jax.Array) -> jax.Array:
    """Encodes without quantising; differentiable.

    Args:
      params: as from `init`.
      pixels: [B, h, w, 3] in [-1, 1]; h and w multiples of `downsampling`.

    Returns:
      [B, h', w', embed_dim] float32, what the quantiser compares to the
      codebook.

    Raises:
      ValueError: h or w is not a multiple of `downsampling`.
    """
    height, width = pixels.shape[1:3]
    if height % self.downsampling or width % self.downsampling:
      raise ValueError(
        f"image of {height}x{width} pixels; expected multiples of"
        f" {self.downsampling}; resize it first"
      )
    # An argmin follows: a code flips where rounding moves a latent across a
    # border (.7 % of tiny_sft's in bfloat16). It costs .9e12 multiplications an
    # image of 384 pixels on a TPU, a twentieth of a step of SFT of the 1B.
    # The decoder stays at the default: no argmin follows, an image is scored as
    # it was made, bfloat16 moves its pixels by no more than an image file's 8
    # bits do (.0010 and .0011, root mean square, tiny_sft), and full products
    # would take as many as sampling the image from the 1B, 2e12.
    with layers.exactly(self.dtype):
      h = layers.apply(Encoder(self), params["encoder"], pixels)
      h = layers.apply(self._quant_conv(), params["quant_conv"], h)
    return h.astype(jnp.float32)

  def quantize(self, params: PyTree, latents: jax.Array) -> jax.Array:
    """Returns the nearest codes [B, h', w'] of latents [B, h', w', embed_dim].

    Squared distance in float32; the first of equals wins. With `l2_norm` both
    are normalised first, as DeepSeek's tokenizer does (janus/models/vq_model.py
    of deepseek-ai/Janus at 1daa72f, `codebook_l2_norm`), so the nearest code is
    that of the largest cosine. Without it they are compared as they are, as in
    transformers: the same codes only if all codebook vectors have one length.
    """
    book = params["quantizer"]["embedding"].astype(jnp.float32)  # [C, E]
    z = latents.astype(jnp.float32)
    if self.l2_norm:
      book, z = _unit(book), _unit(z)
    return nearest(z, book)

  def encode(self, params: PyTree, pixels: jax.Array) -> jax.Array:
    """Returns the codes [B, h', w'] int32 of pixels [B, h, w, 3] in [-1, 1]."""
    return self.quantize(params, self.latents(params, pixels))

  def lookup(self, params: PyTree, codes: jax.Array) -> jax.Array:
    """Returns unit-length codebook vectors [..., embed_dim] of codes [...].

    Normalised as `JanusVQVAEVectorQuantizer.get_codebook_entry` does.
    """
    book = jnp.asarray(params["quantizer"]["embedding"], jnp.float32)  # [C, E]
    return _unit(book[codes])

  def decode_latents(self, params: PyTree, latents: jax.Array) -> jax.Array:
    """Decodes what `lookup` returns; differentiable.

    Args:
      params: as from `init`.
      latents: [B, h', w', embed_dim].

    Returns:
      [B, h, w, 3] float32, nominally in [-1, 1] and not clipped.
    """
    h = layers.apply(self._post_conv(), params["post_quant_conv"], latents)
    h = layers.apply(Decoder(self), params["decoder"], h)
    return h.astype(jnp.float32)

  def decode(self, params: PyTree, codes: jax.Array) -> jax.Array:
    """Decodes codes [B, h', w'] to [B, h, w, 3]; see `decode_latents`."""
    return self.decode_latents(params, self.lookup(params, codes))

  def _quant_conv(self) -> nn.Module:
    return Conv1x1(self.embed_dim, self.dtype)

  def _post_conv(self) -> nn.Module:
    return Conv1x1(self.latent_channels, self.dtype)


def nearest(vectors: jax.Array, book: jax.Array) -> jax.Array:
  """Returns the nearest of a codebook [C, E] to vectors [B, h', w', E].

  By squared distance; the first of equals wins.

  Returns:
    Codes [B, h', w'] int32.
  """
  # [B, h', w', C]: |z - e|^2 = |z|^2 + |e|^2 - 2 z e, as a matrix product.
  dots = jnp.einsum(
    "bhwe,ce->bhwc", vectors, book, precision=jax.lax.Precision.HIGHEST
  )
  squares = jnp.sum(vectors**2, -1, keepdims=True) + jnp.sum(
    book**2, -1
  ).reshape(1, 1, 1, -1)
  return jnp.argmin(squares - 2 * dots, axis=-1).astype(jnp.int32)


def _unit(x: jax.Array) -> jax.Array:
  """Returns vectors [..., E] of length 1; torch's `normalize`, eps 1e-12."""
  squares = jnp.sum(x**2, axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
