"""VQGAN image tokenizer of Janus: pixels <-> codes, NHWC throughout.

Same function as `JanusVQVAE` of transformers 5.23. Letters: B images, h w
pixels, h' w' codes per side, C codebook, E width of a codebook vector.
"""

import dataclasses
from typing import ClassVar

from flax import linen as nn
import jax
import jax.numpy as jnp

from genrec_jax.core.types import PyTree
from genrec_jax.models import image_tokenizer
from genrec_jax.models.image_tokenizer import ImageTokenizer, nearest
from genrec_jax.models.vqgan_layers import Conv1x1, Decoder, Encoder
from genrec_jax.nn import layers

RULES = image_tokenizer.RULES


@dataclasses.dataclass(frozen=True, kw_only=True)
class VQGAN(ImageTokenizer):
  """Static configuration and the functions of the image tokenizer.

  Field names and defaults are those of `JanusVQVAEConfig` (Janus-Pro).
  """

  embed_dim: int = 8
  num_embeddings: int = 16384
  latent_channels: int = 256
  base_channels: int = 128
  channel_multiplier: tuple[int, ...] = (1, 1, 2, 2, 4)
  l2_norm: bool = True  # see `quantize`

  dense: ClassVar = Conv1x1

  @property
  def codebook_size(self) -> int:
    """C: values a code can take."""
    return self.num_embeddings

  def init(self, key: jax.Array) -> PyTree:
    """Returns random float32 parameters."""
    keys = jax.random.split(key, 5)
    pixels, latents, codes = self._inputs()
    # [C, E]
    codebook = jax.random.normal(keys[4], (self.num_embeddings, self.embed_dim))
    codebook /= jnp.linalg.norm(codebook, axis=-1, keepdims=True)
    return {
      "encoder": Encoder(self).init(keys[0], pixels)["params"],
      "quant_conv": self._quant_conv().init(keys[1], latents)["params"],
      "quantizer": {"embedding": codebook},
      "post_quant_conv": self._post_conv().init(keys[2], codes)["params"],
      "decoder": Decoder(self).init(keys[3], latents)["params"],
    }

  def quantize(self, params: PyTree, latents: jax.Array) -> jax.Array:
    """Returns the nearest codes [B, h', w'] of latents [B, h', w', E].

    By squared distance in float32; the first of equals wins. With `l2_norm`
    both are normalised first, as DeepSeek's tokenizer does
    (janus/models/vq_model.py of deepseek-ai/Janus at 1daa72f,
    `codebook_l2_norm`), so the nearest code is that of the largest cosine.
    Without it they are compared as they are, as in transformers: the same codes
    only if all codebook vectors have one length.
    """
    book = self._book(params)  # [C, E]
    z = latents.astype(jnp.float32)
    if self.l2_norm:
      book, z = layers.unit(book), layers.unit(z)
    return nearest(z, book)

  def lookup(self, params: PyTree, codes: jax.Array) -> jax.Array:
    """Returns unit-length codebook vectors [..., E] of codes [...].

    Normalised as `JanusVQVAEVectorQuantizer.get_codebook_entry` does.
    """
    return layers.unit(super().lookup(params, codes))

  def _encode(self, params: PyTree, pixels: jax.Array) -> jax.Array:
    # [B, h, w, 3] to [B, h', w', latent channels], and to [B, h', w', E].
    h = layers.apply(Encoder(self), params["encoder"], pixels)
    return layers.apply(self._quant_conv(), params["quant_conv"], h)

  def _decode(self, params: PyTree, latents: jax.Array) -> jax.Array:
    # [B, h', w', E] to [B, h', w', latent channels], and to [B, h, w, 3].
    h = layers.apply(self._post_conv(), params["post_quant_conv"], latents)
    return layers.apply(Decoder(self), params["decoder"], h)

  def _quant_conv(self) -> nn.Module:
    return Conv1x1(self.embed_dim, self.dtype)

  def _post_conv(self) -> nn.Module:
    return Conv1x1(self.latent_channels, self.dtype)
