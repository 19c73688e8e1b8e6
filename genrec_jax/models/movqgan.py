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
from genrec_jax.models import vqgan
from genrec_jax.models.movqgan_layers import (
  FrameConv,
  FrameDecoder,
  FrameEncoder,
  SpatialNorm,
)
from genrec_jax.models.vqgan_layers import Decoder, Encoder, Norm
from genrec_jax.nn import layers

# Replicated, for the reasons of `vqgan.RULES`.
RULES = (
  (r"quantizer/embedding", P()),
  (r"(frame_)?(en|de)coder/\w+(/\w+)*/(kernel|scale|bias)", P()),
  (r"frame_(en|de)coder/\w+/norm\d/(mean|var)", P()),
  (r"(post_)?quant_conv/(kernel|bias)", P()),
)


@dataclasses.dataclass(frozen=True)
class MoVQGAN:
  """Static configuration and the functions of the image tokenizer.

  Field names and defaults are those of `Emu3VQVAEConfig`. Channel counts must
  be multiples of 32, the number of norm groups. Of the levels only the coarsest
  has attention.
  """

  codebook_size: int = 32768
  embed_dim: int = 4
  latent_channels: int = 4  # equal: one convolution reads both
  in_channels: int = 3
  out_channels: int = 3
  temporal_downsample_factor: int = 4  # a power of 2
  base_channels: int = 256
  channel_multiplier: tuple[int, ...] = (1, 2, 2, 4)
  num_res_blocks: int = 2

  dtype: ClassVar[str] = "float32"  # an argmin: rounding would flip codes
  dense: ClassVar = layers.Linear  # projections of the attention

  @property
  def downsampling(self) -> int:
    """Pixels per code, along each side."""
    return 2 ** (len(self.channel_multiplier) - 1)

  def init(self, key: jax.Array) -> PyTree:
    """Returns random float32 parameters."""
    keys = jax.random.split(key, 7)
    size = self.downsampling
    pixels = jnp.zeros((1, size, size, self.in_channels))
    latents = jnp.zeros((1, 1, 1, self.latent_channels))
    codes = jnp.zeros((1, 1, 1, self.embed_dim))
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

  def latents(self, params: PyTree, pixels: jax.Array) -> jax.Array:
    """Encodes without quantising; differentiable.

    Args:
      params: as from `init`.
      pixels: [B, h, w, 3] as the checkpoint's processor normalises them; h and
        w multiples of `downsampling`.

    Returns:
      [B, h', w', E] float32, what the quantiser compares to the codebook.

    Raises:
      ValueError: h or w is not a multiple of `downsampling`.
    """
    height, width = pixels.shape[1:3]
    if height % self.downsampling or width % self.downsampling:
      raise ValueError(
        f"image of {height}x{width} pixels; expected multiples of"
        f" {self.downsampling}; resize it first"
      )
    with layers.exactly(self.dtype):  # see `VQGAN.latents`
      h = layers.apply(Encoder(self), params["encoder"], pixels)
      h = layers.apply(self._frame_encoder(), params["frame_encoder"], h)
      (h,) = layers.apply(self._quant_conv(), params["quant_conv"], [h])
    return h

  def encode(self, params: PyTree, pixels: jax.Array) -> jax.Array:
    """Returns codes [B, h', w'] int32, nearest by distance; see `latents`."""
    book = jnp.asarray(params["quantizer"]["embedding"], jnp.float32)  # [C, E]
    return vqgan.nearest(self.latents(params, pixels), book)

  def lookup(self, params: PyTree, codes: jax.Array) -> jax.Array:
    """Returns codebook vectors [..., E] float32 of codes [...]."""
    return jnp.asarray(params["quantizer"]["embedding"], jnp.float32)[codes]

  def decode_latents(self, params: PyTree, latents: jax.Array) -> jax.Array:
    """Decodes what `lookup` returns; differentiable.

    Args:
      params: as from `init`.
      latents: [B, h', w', E].

    Returns:
      [B, h, w, 3] float32, normalised as the encoder's input and not clipped.
    """
    (h,) = layers.apply(self._post_conv(), params["post_quant_conv"], [latents])
    # Features and the vectors that norms are steered by take the same way.
    both = jnp.concatenate([h, latents])  # [2 B, h', w', E]
    both = layers.apply(self._frame_decoder(), params["frame_decoder"], both)
    h, quantised = jnp.split(both, 2)
    norm = _spatial_norm(quantised)
    return layers.apply(Decoder(self), params["decoder"], h, norm)

  def decode(self, params: PyTree, codes: jax.Array) -> jax.Array:
    """Decodes codes [B, h', w'] to [B, h, w, 3]; see `decode_latents`."""
    return self.decode_latents(params, self.lookup(params, codes))

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
