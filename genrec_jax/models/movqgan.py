"""MoVQGAN image tokenizer of Emu3: pixels <-> codes, NHWC throughout.

Same function as `Emu3VQVAE` of transformers 5.24 on images, which it repeats
along time; in 2-D here, for a quarter of the work. Letters: B images, h w
pixels, h' w' codes, C codebook, E width of a codebook vector and of a latent.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from genrec_jax.core.types import PyTree
from genrec_jax.models import image_tokenizer
from genrec_jax.models.image_tokenizer import ImageTokenizer
from genrec_jax.models.movqgan_layers import (
  FrameConv,
  FrameDecoder,
  FrameEncoder,
  SpatialNorm,
)
from genrec_jax.models.vqgan_layers import Decoder, Encoder, Norm
from genrec_jax.nn import layers

# Replicated, as all of a tokenizer.
RULES = (
  *image_tokenizer.RULES,
  (r"frame_(en|de)coder/\w+(/\w+)*/(kernel|scale|bias|mean|var)", P()),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoVQGAN(ImageTokenizer):
  """Static configuration and the functions of the image tokenizer.

  Field names and defaults are those of `Emu3VQVAEConfig`.
  """

  codebook_size: int = 32768
  embed_dim: int = 4
  latent_channels: int = 4  # equal: one convolution reads both
  base_channels: int = 256
  channel_multiplier: tuple[int, ...] = (1, 2, 2, 4)
  temporal_downsample_factor: int = 4  # a power of 2

  dense: ClassVar = layers.Linear

  def init(self, key: jax.Array) -> PyTree:
    """Returns random float32 parameters."""
    keys = jax.random.split(key, 7)
    pixels, latents, codes = self._inputs()
    shape = (self.codebook_size, self.embed_dim)
    return {
      "encoder": Encoder(self).init(keys[0], pixels)["params"],
      "frame_encoder": self._frame_encoder().init(keys[1], latents)["params"],
      "quant_conv": self._quant_conv().init(keys[2], [latents])["params"],
      "quantizer": {"embedding": jax.random.normal(keys[3], shape)},
      "post_quant_conv": self._post_conv().init(keys[4], [codes])["params"],
      "frame_decoder": self._frame_decoder().init(keys[5], latents)["params"],
      "decoder": Decoder(self).init(keys[6], latents, _spatial_norm(codes))[
        "params"
      ],
    }

  def _encode(self, params: PyTree, pixels: jax.Array) -> jax.Array:
    h = layers.apply(Encoder(self), params["encoder"], pixels)
    h = layers.apply(self._frame_encoder(), params["frame_encoder"], h)
    (h,) = layers.apply(self._quant_conv(), params["quant_conv"], [h])
    return h

  def _decode(self, params: PyTree, latents: jax.Array) -> jax.Array:
    (h,) = layers.apply(self._post_conv(), params["post_quant_conv"], [latents])
    # Features and the vectors that norms are steered by take the same way.
    both = jnp.concatenate([h, latents])  # [2 B, h', w', E]
    both = layers.apply(self._frame_decoder(), params["frame_decoder"], both)
    h, quantised = jnp.split(both, 2)
    norm = _spatial_norm(quantised)
    return layers.apply(Decoder(self), params["decoder"], h, norm)

  @property
  def _doublings(self) -> int:
    return self.temporal_downsample_factor.bit_length() - 1

  def _frame_encoder(self) -> FrameEncoder:
    return FrameEncoder(self._doublings, self.num_res_blocks, self.dtype)

  def _frame_decoder(self) -> FrameDecoder:
    return FrameDecoder(self._doublings, self.num_res_blocks, self.dtype)

  def _quant_conv(self) -> FrameConv:
    return FrameConv(self.embed_dim, side=1)

  def _post_conv(self) -> FrameConv:
    return FrameConv(self.latent_channels, side=1)


def _spatial_norm(quantised: jax.Array) -> Norm:
  """Returns the decoder's norms for a quantised image [B, h', w', E]."""
  return lambda dtype, name: (
    lambda x: SpatialNorm(dtype, name=name)(x, quantised)
  )
