"""What VQ image tokenizers share: pixels <-> codes, NHWC throughout.

Letters: B images, h w pixels, h' w' codes, C codebook, E width of a codebook
vector.
"""

import abc
from collections.abc import Callable
import dataclasses
from typing import ClassVar

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from genrec_jax.core.types import PyTree
from genrec_jax.nn import layers

# Replicated: frozen, small next to the language model and applied once per
# step, so a copy on every device costs less than gathering it.
RULES = (
  (r"quantizer/embedding", P()),
  (r"(en|de)coder/\w+(/\w+)*/(kernel|scale|bias)", P()),
  (r"(post_)?quant_conv/(kernel|bias)", P()),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTokenizer(abc.ABC):
  """Static configuration and the functions of any such tokenizer.

  Field names are HF's. Channel counts must be multiples of 32, the number of
  norm groups. Of the levels only the coarsest has attention.
  """

  embed_dim: int  # E
  latent_channels: int
  in_channels: int = 3
  out_channels: int = 3
  base_channels: int
  channel_multiplier: tuple[int, ...]  # of each level
  num_res_blocks: int = 2
  dtype: str = "float32"  # an argmin: rounding would flip codes

  dense: ClassVar[Callable[..., nn.Module]]  # projections of the attention

  @property
  @abc.abstractmethod
  def codebook_size(self) -> int:
    """C: values a code can take."""

  @property
  def downsampling(self) -> int:
    """Pixels per code, along each side."""
    return 2 ** (len(self.channel_multiplier) - 1)

  def latents(self, params: PyTree, pixels: jax.Array) -> jax.Array:
    """Encodes without quantising; differentiable.

    Args:
      params: as from `init`.
      pixels: [B, h, w, 3], normalised as the checkpoint's processor does it; h
        and w multiples of `downsampling`.

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
    # An argmin follows: a code flips where rounding moves a latent across a
    # border (.7 % of tiny_sft's in bfloat16). It costs .9e12 multiplications an
    # image of 384 pixels on a TPU, a twentieth of a step of SFT of the 1B.
    # The decoder stays at the default: no argmin follows, an image is scored as
    # it was made, bfloat16 moves its pixels by no more than an image file's 8
    # bits do (.0010 and .0011, root mean square, tiny_sft), and full products
    # would take as many as sampling the image from the 1B, 2e12.
    with layers.exactly(self.dtype):
      return self._encode(params, pixels).astype(jnp.float32)

  def quantize(self, params: PyTree, latents: jax.Array) -> jax.Array:
    """Returns the nearest codes [B, h', w'] int32 of latents [B, h', w', E].

    By squared distance in float32; the first of equals wins.
    """
    return nearest(latents.astype(jnp.float32), self._book(params))

  def encode(self, params: PyTree, pixels: jax.Array) -> jax.Array:
    """Returns codes [B, h', w'] int32 of pixels [B, h, w, 3]; see `latents`."""
    return self.quantize(params, self.latents(params, pixels))

  def lookup(self, params: PyTree, codes: jax.Array) -> jax.Array:
    """Returns codebook vectors [..., E] float32 of codes [...]."""
    return self._book(params)[codes]

  def decode_latents(self, params: PyTree, latents: jax.Array) -> jax.Array:
    """Decodes what `lookup` returns; differentiable.

    Args:
      params: as from `init`.
      latents: [B, h', w', E].

    Returns:
      [B, h, w, 3] float32, normalised as the encoder's input and not clipped.
    """
    return self._decode(params, latents).astype(jnp.float32)

  def decode(self, params: PyTree, codes: jax.Array) -> jax.Array:
    """Decodes codes [B, h', w'] to [B, h, w, 3]; see `decode_latents`."""
    return self.decode_latents(params, self.lookup(params, codes))

  @abc.abstractmethod
  def _encode(self, params: PyTree, pixels: jax.Array) -> jax.Array:
    """Runs the encoder."""

  @abc.abstractmethod
  def _decode(self, params: PyTree, latents: jax.Array) -> jax.Array:
    """Runs the decoder."""

  def _book(self, params: PyTree) -> jax.Array:
    return jnp.asarray(params["quantizer"]["embedding"], jnp.float32)  # [C, E]

  def _inputs(self) -> tuple[jax.Array, ...]:
    """Returns pixels, latents and vectors of one code, to make layers for."""
    size = self.downsampling
    return (
      jnp.zeros((1, size, size, self.in_channels)),
      jnp.zeros((1, 1, 1, self.latent_channels)),
      jnp.zeros((1, 1, 1, self.embed_dim)),
    )


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
